"""What the throttle remembers when there are more names than it can."""

from __future__ import annotations

import pytest

from lepton_auth import throttle as module
from lepton_auth.errors import TooManyFailures
from lepton_auth.throttle import Throttle

NAMES = 100


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def throttle(monkeypatch: pytest.MonkeyPatch) -> tuple[Throttle, Clock]:
    monkeypatch.setattr(module, "_MAX_NAMES", NAMES)
    clock = Clock()
    return Throttle(3, 300.0, clock), clock


def test_made_up_names_give_no_further_guesses(throttle: tuple[Throttle, Clock]) -> None:
    """The window of a name at its limit outlasts any number of names tried once."""
    limit, _ = throttle
    for _ in range(3):
        limit.begin("admin")
    for number in range(20 * NAMES):
        limit.begin(f"made-up-{number}")
    with pytest.raises(TooManyFailures):
        limit.begin("admin")
    assert len(limit._windows) <= NAMES + 1


def test_windows_that_ended_go_first(throttle: tuple[Throttle, Clock]) -> None:
    """However much was tried in them."""
    limit, clock = throttle
    for _ in range(3):
        limit.begin("yesterday")
    clock.now = 299.0
    limit.begin("today")
    clock.now = 301.0
    for number in range(NAMES - 1):
        limit.begin(f"other-{number}")
    assert "yesterday" not in limit._windows
    assert "today" in limit._windows


def test_an_attempt_taken_back_leaves_nothing(throttle: tuple[Throttle, Clock]) -> None:
    """A login that was never checked takes no place."""
    limit, _ = throttle
    limit.begin("bob")
    limit.undo("bob")
    limit.undo("nobody")
    assert not limit._windows
