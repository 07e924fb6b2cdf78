"""The batcher: who shares a batch, and what is left behind."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from lepton_inference.batcher import (
    Batcher,
    InferenceFailed,
    ModelUnloaded,
)
from lepton_inference.model_errors import InputRefused, MemoryLimit, ModelCrashed, RunTooLong
from lepton_inference.settings import BatchingSettings
from lepton_inference.statistics import Statistics
from lepton_mesh.errors import LeptonError
from tests.unit.inference.batching import TAILS, Doubling, make, row, value_of


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


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (InputRefused("index 77 is out of bounds"), "INPUT_REFUSED"),
        (RunTooLong("it ran for longer than 1 s"), "RUN_TOO_LONG"),
        (MemoryLimit("too much"), "MEMORY_LIMIT"),
        (MemoryError(), "MEMORY_LIMIT"),
        (ModelCrashed("it ended its process"), "MODEL_CRASHED"),
    ],
)
async def test_what_a_request_can_bring_about_is_logged_without_a_traceback(
    error: Exception, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The line tells the reason instead."""
    batcher = make(Doubling(error))
    with pytest.raises(LeptonError) as told:
        await batcher.submit(row(-1), 1, TAILS)
    assert told.value.reason == reason
    (record,) = caplog.records
    assert record.exc_info is None
    assert (vars(record)["reason"], vars(record)["detail"]) == (reason, told.value.message)


async def test_a_lone_request_that_fails_is_logged() -> None:
    """It runs once, and the next one is answered."""
    runner = Doubling()
    batcher = make(runner)
    with pytest.raises(InferenceFailed):
        await batcher.submit(row(-1), 1, TAILS)
    assert value_of(await batcher.submit(row(3), 1, TAILS)) == 6
    assert runner.batches == [1, 1]


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
