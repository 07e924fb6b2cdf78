"""The batcher: who shares a batch, who is refused, and what is left behind."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from lepton_inference.batch_queue import RequestExpired
from lepton_inference.batcher import (
    NO_DEADLINE,
    Batcher,
    InferenceFailed,
    ModelUnloaded,
    QueueFull,
)
from lepton_inference.model_errors import RunUnwanted
from lepton_inference.settings import BatchingSettings
from lepton_inference.statistics import Statistics

TAILS = ((2,),)


class Doubling:
    """Doubles FP32 rows of two; counts batches; may be held, and fails on a row of -1."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.threads: set[int] = set()
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def join(self, columns: Sequence[Sequence[Any]], rows: int, tails: Any) -> dict[str, Any]:
        raw = b"".join(columns[0])
        return {"x": np.frombuffer(raw, np.float32).reshape(rows, *tails[0])}

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        self.begun.set()
        assert self.go_on.wait(10)
        self.batches.append(len(feeds["x"]))
        self.threads.add(threading.get_ident())
        if (feeds["x"] == -1).any():
            raise RuntimeError("secret detail")
        return [feeds["x"] * 2]


def row(value: float, rows: int = 1) -> tuple[bytes]:
    return (np.full((rows, 2), value, np.float32).tobytes(),)


def make(
    runner: Doubling, *, inline: bool = True, batched: bool = True, **settings: Any
) -> Batcher:
    return Batcher(
        runner,
        BatchingSettings(**settings),
        batched=batched,
        inline_rows=1 << 20 if inline else 0,
        statistics=Statistics(),
    )


def value_of(outcome: Any) -> float:
    batch, first = outcome
    return float(batch.arrays[0][first, 0])


@pytest.mark.parametrize("inline", [True, False])
async def test_requests_of_one_tick_share_a_batch(inline: bool) -> None:
    """Each gets its own rows back; the loop's thread runs them only when inline."""
    runner = Doubling()
    batcher = make(runner, inline=inline)
    futures = [batcher.submit(row(number, rows=2), 2, TAILS) for number in range(5)]
    outcomes = await asyncio.gather(*futures)
    assert [value_of(outcome) for outcome in outcomes] == [0, 2, 4, 6, 8]
    assert runner.batches == [10]
    assert (runner.threads == {threading.get_ident()}) is inline
    await batcher.close()


async def test_a_batch_has_no_more_rows_than_it_may() -> None:
    """Rows beyond the bound go into the next batch, and no request is split."""
    runner = Doubling()
    batcher = make(runner, max_rows=4)
    await asyncio.gather(*(batcher.submit(row(1, rows=3), 3, TAILS) for _ in range(3)))
    assert runner.batches == [3, 3, 3]


async def test_other_shapes_do_not_share_a_batch() -> None:
    """Requests are batched by the shape of a row."""
    runner = Doubling()
    batcher = make(runner)
    wide = (np.ones((1, 3), np.float32).tobytes(),)
    await asyncio.gather(
        batcher.submit(row(1), 1, TAILS),
        batcher.submit(wide, 1, ((3,),)),
        batcher.submit(row(1), 1, TAILS),
    )
    assert sorted(runner.batches) == [1, 2]


async def test_what_arrives_while_the_worker_is_busy_is_the_next_batch() -> None:
    """A busy model collects a batch without any delay being set."""
    runner = Doubling()
    runner.go_on.clear()
    batcher = make(runner, inline=False)
    first = batcher.submit(row(1), 1, TAILS)
    await asyncio.to_thread(runner.begun.wait, 10)
    later = [batcher.submit(row(2), 1, TAILS) for _ in range(7)]
    runner.go_on.set()
    await asyncio.gather(first, *later)
    assert runner.batches == [1, 7]
    await batcher.close()


async def test_a_delay_waits_for_company() -> None:
    """With a delay set, requests of several ticks share a batch."""
    runner = Doubling()
    batcher = make(runner, max_delay_seconds=0.05)
    first = batcher.submit(row(1), 1, TAILS)
    for _ in range(3):
        await asyncio.sleep(0)
    second = batcher.submit(row(2), 1, TAILS)
    await asyncio.gather(first, second)
    assert runner.batches == [2]


async def test_a_full_batch_does_not_wait_out_the_delay() -> None:
    """The delay is a bound, not a pause."""
    runner = Doubling()
    batcher = make(runner, max_rows=2, max_delay_seconds=60)
    await asyncio.wait_for(asyncio.gather(*(batcher.submit(row(1), 1, TAILS) for _ in range(2))), 5)
    assert runner.batches == [2]


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


@pytest.mark.parametrize("inline", [True, False])
async def test_a_batch_that_fails_fails_the_guilty_alone(
    inline: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are answered; the guilty one hears that it failed, and the log has why, once."""
    runner = Doubling()
    batcher = make(runner, inline=inline)
    good, bad, other = await asyncio.gather(
        batcher.submit(row(1), 1, TAILS),
        batcher.submit(row(-1), 1, TAILS),
        batcher.submit(row(2), 1, TAILS),
        return_exceptions=True,
    )
    assert (value_of(good), value_of(other)) == (2, 4)
    assert type(bad) is InferenceFailed
    assert "secret" not in str(bad)
    assert runner.batches == [3, 1, 1, 1]
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "secret detail" in str(record.exc_info[1])
    assert batcher.waiting == 0
    await batcher.close()


async def test_a_lone_request_that_fails_is_logged() -> None:
    """It runs once, and the next one is answered."""
    runner = Doubling()
    batcher = make(runner)
    with pytest.raises(InferenceFailed):
        await batcher.submit(row(-1), 1, TAILS)
    assert value_of(await batcher.submit(row(3), 1, TAILS)) == 6
    assert runner.batches == [1, 1]


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


@pytest.mark.parametrize(
    ("requests", "batches"), [(3, [2, 1]), (4, [4]), (7, [4, 2, 1]), (1, [1]), (10, [8, 2])]
)
async def test_a_batch_is_cut_to_a_preferred_size(requests: int, batches: list[int]) -> None:
    """The largest that the waiting rows fill; what fills none runs as it is."""
    runner = Doubling()
    batcher = make(runner, max_rows=9, preferred_rows=(2, 4, 8))
    await asyncio.gather(*(batcher.submit(row(1), 1, TAILS) for _ in range(requests)))
    assert runner.batches == batches


async def test_a_request_larger_than_a_preferred_size_runs_whole() -> None:
    """Sizes cut batches, never requests."""
    runner = Doubling()
    batcher = make(runner, max_rows=9, preferred_rows=(2,))
    await asyncio.gather(*(batcher.submit(row(1, rows=5), 5, TAILS) for _ in range(2)))
    assert runner.batches == [5, 5]


async def test_a_preferred_size_does_not_wait_out_the_delay() -> None:
    """The largest is all that a delay is for."""
    runner = Doubling()
    batcher = make(runner, max_rows=9, preferred_rows=(2,), max_delay_seconds=10)
    await asyncio.wait_for(asyncio.gather(*(batcher.submit(row(1), 1, TAILS) for _ in range(2))), 5)
    assert runner.batches == [2]


async def test_the_loop_turns_between_inline_batches() -> None:
    """Whatever else the loop serves waits for one batch, not for the queue."""
    runner = Doubling()
    batcher = make(runner, max_rows=1)
    waiting = [batcher.submit(row(1), 1, TAILS) for _ in range(3)]
    seen = []
    while not waiting[-1].done():
        await asyncio.sleep(0)
        seen.append(len(runner.batches))
    assert seen[:3] == [1, 2, 3]


async def test_a_batch_too_large_for_the_loop_runs_on_a_worker() -> None:
    """The same model runs small batches inline and large ones beside the loop."""
    runner = Doubling()
    batcher = Batcher(
        runner, BatchingSettings(), batched=True, inline_rows=2, statistics=Statistics()
    )
    await batcher.submit(row(1, rows=2), 2, TAILS)
    assert runner.threads == {threading.get_ident()}
    await batcher.submit(row(1, rows=3), 3, TAILS)
    assert len(runner.threads) == 2
    await batcher.close()


async def test_several_instances_run_at_a_time() -> None:
    """A second batch begins while the first is held, on another thread; a third waits."""
    meeting = threading.Barrier(2, timeout=10)

    class Meeting(Doubling):
        def run(self, feeds: dict[str, Any]) -> list[Any]:
            meeting.wait()
            return super().run(feeds)

    runner = Meeting()
    batcher = Batcher(
        runner,
        BatchingSettings(max_rows=1),
        batched=True,
        inline_rows=64,
        instances=2,
        statistics=Statistics(),
    )
    await asyncio.gather(*(batcher.submit(row(1), 1, TAILS) for _ in range(4)))
    assert threading.get_ident() not in runner.threads
    assert len(runner.threads) == 2
    await batcher.close()


async def test_an_adaptive_delay_waits_for_nobody_when_nobody_comes() -> None:
    """Lone requests, one after another, never wait out the bound."""
    batcher = make(Doubling(), max_delay_seconds=10, adaptive_delay=True)
    for _ in range(5):
        await asyncio.wait_for(batcher.submit(row(1), 1, TAILS), 5)


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


@pytest.mark.parametrize("inline", [True, False])
async def test_closing_finishes_what_waits(inline: bool) -> None:
    """What was queued is answered; what comes later is told to come again."""
    runner = Doubling()
    batcher = make(runner, inline=inline, max_delay_seconds=0.01)
    waiting = [batcher.submit(row(1), 1, TAILS) for _ in range(3)]
    closing = asyncio.create_task(batcher.close())
    assert [value_of(outcome) for outcome in await asyncio.gather(*waiting)] == [2, 2, 2]
    await closing
    with pytest.raises(ModelUnloaded):
        batcher.submit(row(1), 1, TAILS)


async def test_statistics_add_up() -> None:
    """Counts and times are those of the requests and batches that ran."""
    runner = Doubling()
    statistics = Statistics()
    batcher = Batcher(
        runner, BatchingSettings(), batched=True, inline_rows=64, statistics=statistics
    )
    await asyncio.gather(*(batcher.submit(row(1), 1, TAILS) for _ in range(3)))
    await batcher.submit(row(1, rows=4), 4, TAILS)
    assert (statistics.inferences, statistics.executions) == (7, 2)
    assert statistics.success.duration.count == 4
    assert sorted(statistics.batches) == [3, 4]
    parts = (statistics.queue, statistics.compute_input, statistics.compute_infer)
    assert 0 < sum(part.sum for part in parts) <= statistics.success.sum
