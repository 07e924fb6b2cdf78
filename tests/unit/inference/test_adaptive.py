"""The delay that follows the load: when waiting pays, and when it is over."""

from __future__ import annotations

import pytest

from lepton_inference.adaptive import AdaptiveDelay


def measured(fixed: float, each: float, *, most: float = 0.01) -> AdaptiveDelay:
    delay = AdaptiveDelay(most)
    for requests in (1, 4, 9, 2, 6, 16, 3, 8) * 4:
        delay.ran(requests, fixed + each * requests)
    return delay


def arrive(delay: AdaptiveDelay, every: float, seconds: float = 1.0) -> float:
    """Requests at a steady rate; returns when the last came."""
    now = 0.0
    while now < seconds:
        now += every
        delay.arrived(now)
    return now


def test_the_fixed_part_of_a_batch_is_found() -> None:
    """From batches of several sizes, whatever a request adds."""
    assert measured(0.002, 0.0003).fixed_seconds == pytest.approx(0.002)
    assert measured(0.0, 0.0003).fixed_seconds == pytest.approx(0.0, abs=1e-9)


def test_batches_of_one_size_are_taken_for_fixed() -> None:
    """The most that it can be, so that waiting is tried."""
    delay = AdaptiveDelay(0.01)
    assert delay.fixed_seconds == 0.0
    for _ in range(10):
        delay.ran(1, 0.003)
    assert delay.fixed_seconds == pytest.approx(0.003)


@pytest.mark.parametrize(
    ("fixed", "every", "waits"),
    [
        (0.002, 0.0005, True),  # four requests come while one batch is saved
        (0.002, 0.005, False),  # the next comes later than it would save
        (0.00002, 0.0005, False),  # a batch costs next to nothing
        (0.0004, 0.0001, False),  # four come, but no loop can wait for so short a time
    ],
)
def test_a_batch_waits_while_company_saves_more_than_the_wait(
    fixed: float, every: float, waits: bool
) -> None:
    """The time between arrivals against the fixed part of a batch."""
    delay = measured(fixed, 0.0001)
    now = arrive(delay, every)
    assert (delay.until(now, now) > now) is waits


def test_a_wait_is_over_when_nothing_comes_and_at_the_bound() -> None:
    """The fixed part after the last arrival; the bound after the oldest."""
    delay = measured(0.002, 0.0001, most=0.01)
    now = arrive(delay, 0.0005)
    assert delay.until(now - 0.001, now) == pytest.approx(now + 0.002)
    assert delay.until(now - 0.009, now) == pytest.approx(now + 0.001)


def test_the_delay_follows_the_load() -> None:
    """A second after the crowd has gone, nobody is waited for."""
    delay = measured(0.002, 0.0001)
    now = arrive(delay, 0.0005) + 1.0
    delay.arrived(now)
    assert delay.until(now, now) <= now
