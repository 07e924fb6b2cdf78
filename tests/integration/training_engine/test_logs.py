"""What users read of a job's log: as it is written, bounded, and where the job ran."""

from __future__ import annotations

import tracemalloc

import pytest

from lepton_training.jobs import JobElsewhere
from tests.integration.training_engine.conftest import Start, script

pytestmark = pytest.mark.integration


async def test_a_log_on_another_node_is_refused(start: Start) -> None:
    """Where the job ran is told, instead of an empty log."""
    training = await start(script("sys.exit(1)"))
    await training.create("moved")
    job = await training.ended("moved")
    await training.repository.change(job, [job.state], {"node": "there"})
    with pytest.raises(JobElsewhere, match="node there"):
        await training.log("moved")


async def test_logs_stream_while_the_job_runs(start: Start) -> None:
    """Lines come as they are written, with the time they begin with, the last one unfinished."""
    body = (
        "print('2026-01-02T03:04:05.678+00:00 one', flush=True)\n"
        "while not (d / 'go').exists(): time.sleep(0.02)\n"
        "print('two'); print('x' * 20000); print('three', end='', flush=True); sys.exit(1)"
    )
    training = await start(script(body))
    await training.create("talks")
    lines = training.jobs.logs("w", "jobs/talks", True)
    first = await anext(lines)
    assert (first.text, first.time.isoformat()) == ("one", "2026-01-02T03:04:05.678000+00:00")
    (training.files.directory("w", "talks") / "go").touch()
    rest = [line async for line in lines]
    assert [line.text for line in rest] == ["two", "x" * 16384, "three"]
    assert rest[0].time == first.time


async def test_a_line_that_does_not_end_is_bounded(start: Start) -> None:
    """Of a log of 16 MiB without a line's end no more is held than is shown and read at once."""
    training = await start(script("sys.exit(1)"))
    await training.create("endless")
    await training.ended("endless")
    (training.files.directory("w", "endless") / "log.txt").write_bytes(b"x" * (16 << 20))
    tracemalloc.start()
    try:
        assert await training.log("endless") == "x" * 16384
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
