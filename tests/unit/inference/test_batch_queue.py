"""The queue before a batcher: who waits, who is refused, and who goes first."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lepton_inference.batch_queue import RequestExpired
from lepton_inference.batcher import (
    NO_DEADLINE,
    QueueFull,
)
from lepton_inference.model_errors import RunUnwanted
from tests.unit.inference.batching import TAILS, Doubling, make, row, value_of


class Endable(Doubling):
    """Holds each run until it is let go or nobody wants it any more."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on.clear()
        self.asked = threading.Semaphore(0)
        self.answers: list[bool] = []

    def run_while(self, feeds: dict[str, Any], wanted: Callable[[], bool]) -> list[Any]:
        while self.asked.acquire(timeout=10):
            self.answers.append(wanted())
            if self.go_on.is_set():
                return self.run(feeds)
            if not self.answers[-1]:
                raise RunUnwanted
            self.begun.set()
        raise AssertionError("forgotten")


async def test_a_batch_is_wanted_while_one_caller_is_there() -> None:
    """And in time; once none is, it ends, and what waits runs."""
    runner = Endable()
    batcher = make(runner, inline=False)
    gone, late = (
        batcher.submit(row(1), 1, TAILS, deadline)
        for deadline in (NO_DEADLINE, batcher.now() + 0.2)
    )
    runner.asked.release()
    await asyncio.to_thread(runner.begun.wait, 10)
    behind = batcher.submit(row(2), 1, TAILS)
    gone.cancel()
    while not late.done():  # asked until the deadline has passed
        runner.asked.release()
        await asyncio.sleep(0.01)
    assert isinstance(late.exception(), RequestExpired)
    assert runner.answers[0] and not runner.answers[-1]
    runner.go_on.set()
    runner.asked.release()
    assert value_of(await behind) == 4
    assert runner.batches == [1]
    await batcher.close()


async def test_expired_requests_cost_no_compute() -> None:
    """A request whose deadline passed in the queue is dropped before it runs."""
    runner = Doubling()
    runner.go_on.clear()
    batcher = make(runner, inline=False)
    first = batcher.submit(row(1), 1, TAILS)
    await asyncio.to_thread(runner.begun.wait, 10)
    expired = batcher.submit(row(2), 1, TAILS, deadline=batcher.now() - 1)
    runner.go_on.set()
    await first
    with pytest.raises(RequestExpired):
        await expired
    assert runner.batches == [1]
    await batcher.close()


async def test_cancelled_requests_leave_nothing_behind() -> None:
    """A client that went away is neither computed for nor kept."""
    runner = Doubling()
    runner.go_on.clear()
    batcher = make(runner, inline=False)
    first = batcher.submit(row(1), 1, TAILS)
    await asyncio.to_thread(runner.begun.wait, 10)
    gone = [batcher.submit(row(2), 1, TAILS) for _ in range(3)]
    for future in gone:
        future.cancel()
    runner.go_on.set()
    await first
    await batcher.close()
    assert runner.batches == [1]
    assert batcher.waiting == 0


async def test_the_queue_is_bounded() -> None:
    """One more than may wait is refused, at once, and can be retried later."""
    runner = Doubling()
    batcher = make(runner, max_queue=2)
    waiting = [batcher.submit(row(1), 1, TAILS) for _ in range(2)]
    with pytest.raises(QueueFull) as caught:
        batcher.submit(row(1), 1, TAILS)
    assert caught.value.wire.retryable
    await asyncio.gather(*waiting)
    await batcher.submit(row(1), 1, TAILS)


async def test_who_went_away_leaves_room_in_a_full_queue() -> None:
    """At once, and not only when the model comes to it; the next one is run."""
    runner = Doubling()
    runner.go_on.clear()
    batcher = make(runner, inline=False, max_queue=2)
    first = batcher.submit(row(1), 1, TAILS)
    await asyncio.to_thread(runner.begun.wait, 10)
    stays, goes = batcher.submit(row(2), 1, TAILS), batcher.submit(row(3), 1, TAILS)
    goes.cancel()
    last = batcher.submit(row(4), 1, TAILS)
    with pytest.raises(QueueFull):
        batcher.submit(row(5), 1, TAILS)
    runner.go_on.set()
    assert [value_of(await each) for each in (first, stays, last)] == [2, 4, 8]
    assert runner.batches == [1, 2]
    await batcher.close()


async def test_who_is_too_late_leaves_room_in_a_full_queue() -> None:
    """As who went away does; it is told so before the model comes to it."""
    runner = Doubling()
    runner.go_on.clear()
    batcher = make(runner, inline=False, max_queue=2)
    first = batcher.submit(row(1), 1, TAILS)
    await asyncio.to_thread(runner.begun.wait, 10)
    stays = batcher.submit(row(2), 1, TAILS)
    late = batcher.submit(row(3), 1, TAILS, deadline=batcher.now() - 1)
    last = batcher.submit(row(4), 1, TAILS)
    assert isinstance(late.exception(), RequestExpired)
    runner.go_on.set()
    assert [value_of(await each) for each in (first, stays, last)] == [2, 4, 8]
    assert runner.batches == [1, 2]
    await batcher.close()


async def test_lower_numbers_go_first_and_fill_up_with_the_others() -> None:
    """A level is served before the next; one that names none has the default's."""
    runner = Doubling()
    batcher = make(runner, max_rows=3, priority_levels=3, default_priority=2)
    order: list[str] = []

    def submit(name: str, priority: int) -> asyncio.Future[Any]:
        future = batcher.submit(row(1), 1, TAILS, priority=priority)
        future.add_done_callback(lambda _: order.append(name))
        return future

    named = [("last", 3), ("default", 0), ("first", 1), ("second", 2), ("also first", 1)]
    await asyncio.gather(*(submit(*each) for each in named))
    assert order == ["first", "also first", "default", "second", "last"]
    assert runner.batches == [3, 2]


async def test_shapes_of_one_level_take_turns() -> None:
    """A shape that fills every batch leaves the next to another shape of its level."""
    runner = Doubling()
    batcher = make(runner, max_rows=1, priority_levels=2, default_priority=1)
    order: list[int] = []
    waiting = []
    for width in (2, 2, 2, 1):
        columns = (np.ones((1, width), np.float32).tobytes(),)
        future = batcher.submit(columns, 1, ((width,),), priority=1)
        future.add_done_callback(lambda _, width=width: order.append(width))
        waiting.append(future)
    await asyncio.gather(*waiting)
    assert order == [2, 1, 2, 2]


async def test_a_full_queue_says_when_to_come_again() -> None:
    """The queue's length times what a request has cost of late."""
    runner = Doubling()
    runner.go_on.clear()
    batcher = make(runner, inline=False, max_rows=1, max_queue=4)
    first = batcher.submit(row(1), 1, TAILS)
    await asyncio.to_thread(runner.begun.wait, 10)
    await asyncio.sleep(0.1)
    runner.go_on.set()
    await first
    runner.go_on.clear()
    waiting = [batcher.submit(row(1), 1, TAILS) for _ in range(4)]
    with pytest.raises(QueueFull) as caught:
        batcher.submit(row(1), 1, TAILS)
    assert 0.4 <= caught.value.retry_after_seconds < 30
    runner.go_on.set()
    await asyncio.gather(*waiting)
    await batcher.close()
