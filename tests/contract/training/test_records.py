"""The port of the jobs' records, on every database."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lepton_mesh.database import Database, differences
from lepton_training.adapters.sql_jobs import SqlJobs
from lepton_training.job import (
    TRANSITIONS,
    Attempt,
    Job,
    JobExists,
    JobNotFound,
    Measurement,
    Phase,
    State,
    StoredCheckpoint,
)
from lepton_training.models import Base, JobRow


@pytest.fixture
def jobs(database: Database) -> SqlJobs:
    return SqlJobs(database)


def make(job_id: str = "a", **values: object) -> Job:
    defaults: dict[str, object] = {
        "workspace": "w",
        "id": job_id,
        "spec": {"recipe": "cnn"},
        "creator": "users/ada",
        "create_time": datetime.now(UTC),
        "cpus": 1,
    }
    return Job(**(defaults | values))


def checkpoint(number: int) -> StoredCheckpoint:
    return StoredCheckpoint(f"artifacts/{number}", f"{number:064}", datetime.now(UTC))


@dataclasses.dataclass
class Overtaken:
    """A database on which somebody else's creation commits first, once."""

    database: Database
    other: Callable[[], Awaitable[Job]]
    done: bool = False

    async def write(self, function: Any) -> Any:
        if not self.done:
            self.done = True
            await self.other()
            raise IntegrityError("INSERT", {}, Exception("UNIQUE constraint failed"))
        return await self.database.write(function)


@pytest.mark.parametrize("begin", State)
@pytest.mark.parametrize("target", State)
async def test_the_repository_enforces_them(jobs: SqlJobs, begin: State, target: State) -> None:
    """An illegal transition is a bug and changes nothing."""
    job = await jobs.create(make(state=begin))
    if begin == target or target in TRANSITIONS[begin]:
        updated = await jobs.change(job, [begin], {"state": target})
        assert updated is not None and updated.state is target
    else:
        with pytest.raises(ValueError, match="cannot become"):
            await jobs.change(job, [begin], {"state": target})
        assert (await jobs.get("w", "a")).state is begin


async def test_a_change_that_comes_too_late_is_none(jobs: SqlJobs) -> None:
    """Compare and set: of two who would end a job, one does."""
    job = await jobs.create(make(state=State.RUNNING))
    assert await jobs.change(job, [State.RUNNING], {"state": State.SUCCEEDED}) is not None
    assert await jobs.change(job, [State.RUNNING], {"state": State.CANCELLING}) is None
    assert (await jobs.get("w", "a")).state is State.SUCCEEDED


async def test_events_count_without_gaps(jobs: SqlJobs) -> None:
    """Measurements and state changes share one sequence; quiet changes add nothing."""
    job = await jobs.create(make())
    job = await jobs.change(job, [State.QUEUED], {"state": State.RUNNING}) or job
    numbers = [Measurement(step, 1, 2, 0.1, {"train_loss": 0.5}) for step in (1, 2)]
    job = await jobs.change(job, [State.RUNNING], {"progress": 0.1}, numbers) or job
    await jobs.change(job, [State.RUNNING], {"phase": Phase.TRAINING})
    events = await jobs.events("w", "a", 0, 100)
    assert [event.sequence for event in events] == [1, 2, 3, 4, 5]
    assert [type(event.content).__name__ for event in events] == [
        "Job",
        "Job",
        "Measurement",
        "Measurement",
        "Job",
    ]
    assert [event.sequence for event in await jobs.events("w", "a", 3, 1)] == [4]


async def test_a_record_is_read_back_as_it_was(jobs: SqlJobs) -> None:
    """Times with their zone, tuples, numbers."""
    job = make(
        start_time=datetime.now(UTC),
        epoch_seconds=(1.5, 2.5),
        metrics={"train_loss": 0.25},
        request_id="r",
        history=(Attempt(1, datetime.now(UTC), datetime.now(UTC), "PAUSED", "by ada", "here"),),
        queue_time=datetime.now(UTC),
        core_ids=(0, 1),
        gpu_ids=("0",),
        checkpoint=checkpoint(1),
    )
    await jobs.create(job)
    assert await jobs.get("w", "a") == job


async def test_names_and_requests_are_unique(jobs: SqlJobs) -> None:
    """The same request finds its job; the same id is refused; workspaces are apart."""
    first = await jobs.create(make("a", request_id="r"))
    assert await jobs.create(make("b", request_id="r")) == first
    with pytest.raises(JobExists):
        await jobs.create(make("a"))
    await jobs.create(make("a", workspace="other"))
    with pytest.raises(JobNotFound):
        await jobs.get("w", "b")


async def test_of_many_creations_at_once_one_is_made(database: Database) -> None:
    """The same request finds one job from every instance of the service; the same id is refused."""
    instances = [SqlJobs(database) for _ in range(8)]
    same = [one.create(make(f"r{i}", request_id="r")) for i, one in enumerate(instances)]
    assert len({job.id for job in await asyncio.gather(*same)}) == 1
    made = await asyncio.gather(
        *(one.create(make("taken")) for one in instances), return_exceptions=True
    )
    assert sorted(type(one).__name__ for one in made) == ["Job", *["JobExists"] * 7]


@pytest.mark.parametrize(
    ("first", "second"),
    [({"request_id": "r"}, {"job_id": "b", "request_id": "r"}), ({}, {})],
    ids=["request id", "id"],
)
async def test_a_creation_that_lost_the_race_looks_again(
    database: Database, first: dict[str, str], second: dict[str, str]
) -> None:
    """What another one added between look and insert is found, not an error of the database."""
    winner = make(**first)
    lost = Overtaken(database, lambda: SqlJobs(database).create(winner))
    again = SqlJobs(lost).create(make(**second))
    if first:
        assert await again == winner
    else:
        with pytest.raises(JobExists):
            await again


async def test_pages_newest_first(jobs: SqlJobs) -> None:
    """Every job once, whatever the size of the page."""
    now = datetime.now(UTC)
    for index in range(5):
        await jobs.create(make(f"j{index}", create_time=now + timedelta(seconds=index // 2)))
    seen: list[Job] = []
    while page := await jobs.list_newest(
        "w", 2, (seen[-1].create_time, seen[-1].id) if seen else None
    ):
        seen += page
    assert [job.id for job in seen] == ["j4", "j3", "j2", "j1", "j0"]


async def test_deleting_leaves_nothing(jobs: SqlJobs) -> None:
    """The record goes with its events."""
    job = await jobs.create(make(state=State.CANCELLED))
    assert await jobs.delete(job)
    assert await jobs.events("w", "a", 0, 10) == []
    with pytest.raises(JobNotFound):
        await jobs.get("w", "a")


async def test_only_the_job_that_was_meant_is_deleted(jobs: SqlJobs) -> None:
    """Neither one that has not ended, nor the next one that has its id."""
    first = await jobs.create(make(state=State.CANCELLED))
    assert await jobs.delete(first)
    assert not await jobs.delete(first)
    later = first.create_time + timedelta(seconds=1)
    second = await jobs.create(make(state=State.CANCELLED, create_time=later))
    assert not await jobs.delete(first)
    assert await jobs.get("w", "a") == second
    running = await jobs.create(make("b", state=State.RUNNING))
    assert not await jobs.delete(running)
    assert await jobs.events("w", "b", 0, 10) != []


def test_revisions_build_what_the_models_say(database: Database) -> None:
    """Migrations and tables agree."""
    assert differences(database.engine, Base.metadata) == []


async def test_usage_is_what_jobs_ran_lately(jobs: SqlJobs) -> None:
    """Seconds times cores, added up by workspace, half of it left after a day."""
    job = await jobs.create(make(state=State.RUNNING, cpus=2))
    await jobs.create(make("idle", workspace="other"))
    await jobs.change(job, [State.RUNNING], {"run_seconds": 30.0})
    await jobs.change(job, [State.RUNNING], {"run_seconds": 50.0})
    await jobs.change(job, [State.RUNNING], {"progress": 0.5, "run_seconds": 50.0})
    now = datetime.now(UTC)
    assert await jobs.usage(now) == pytest.approx({"w": 100.0, "other": 0.0}, rel=1e-3)
    later = await jobs.usage(now + timedelta(days=1))
    assert later["w"] == pytest.approx(50.0, rel=1e-3)
    ended = await jobs.change(job, [State.RUNNING], {"state": State.FAILED})
    assert ended is not None and await jobs.delete(ended)
    assert (await jobs.usage(now))["w"] > 99.0


async def test_who_has_a_process_is_running(jobs: SqlJobs) -> None:
    """Also while it is asked to pause or to stop; on its node, and on all."""
    for state in State:
        await jobs.create(make(state.lower(), state=state, node="here"))
    await jobs.create(make("far", state=State.RUNNING, node="there"))
    ids = {"running", "pausing", "cancelling"}
    assert {job.id for job in await jobs.active("here")} == ids
    assert {job.id for job in await jobs.running()} == ids | {"far"}


async def test_a_record_from_before_attempts_were_kept_is_read(
    jobs: SqlJobs, database: Database
) -> None:
    """An upgraded service knows its jobs."""
    await jobs.create(make(history=(Attempt(1, datetime.now(UTC)),)))

    def forget(session: Session) -> None:
        row = session.get(JobRow, ("w", "a"))
        assert row is not None
        new = {"history", "queue_time", "not_before", "core_ids", "gpu_ids", "checkpoint"}
        row.record = {name: value for name, value in row.record.items() if name not in new}

    await database.write(forget)
    job = await jobs.get("w", "a")
    assert (job.history, job.core_ids, job.waits_since) == ((), (), job.create_time)
    assert job.checkpoint is None


async def test_a_checkpoint_that_no_record_names_is_discarded(jobs: SqlJobs) -> None:
    """Replaced, given up or deleted with its job, until it is said to be gone."""
    running = [State.RUNNING]
    job = await jobs.create(make(state=State.RUNNING))
    first, second = checkpoint(1), checkpoint(2)
    await jobs.change(job, running, {"checkpoint": first})
    await jobs.change(job, running, {"progress": 0.5})
    assert await jobs.change(job, [State.QUEUED], {"checkpoint": second}) is None
    assert (await jobs.get("w", "a")).checkpoint == first
    assert await jobs.discarded(10) == []
    await jobs.change(job, running, {"checkpoint": second})
    assert await jobs.discarded(10) == [("w", "artifacts/1")]
    await jobs.change(job, running, {"checkpoint": None, "state": State.SUCCEEDED})
    failed = make("b", workspace="other", state=State.FAILED, checkpoint=checkpoint(3))
    assert await jobs.delete(await jobs.create(failed))
    assert await jobs.delete(job)
    assert sorted(await jobs.discarded(10)) == [
        ("other", "artifacts/3"),
        ("w", "artifacts/1"),
        ("w", "artifacts/2"),
    ]
    assert len(await jobs.discarded(2)) == 2
    await jobs.forget_discarded("w", "artifacts/1")
    assert sorted(await jobs.discarded(10)) == [("other", "artifacts/3"), ("w", "artifacts/2")]


async def test_a_checkpoint_is_discarded_with_what_replaces_it(database: Database) -> None:
    """In one transaction: one that fails changes neither."""
    jobs = SqlJobs(database)
    job = await jobs.create(make(checkpoint=checkpoint(1)))
    with pytest.raises(ValueError, match="cannot become"):
        await jobs.change(job, [State.QUEUED], {"checkpoint": None, "state": State.SUCCEEDED})
    assert await jobs.discarded(10) == []
    assert (await jobs.get("w", "a")).checkpoint is not None
