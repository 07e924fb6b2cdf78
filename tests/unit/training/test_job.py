"""The states of a job, and its records in the database."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lepton_mesh.database import Database, differences
from lepton_training.adapters.sql_jobs import PageTokenInvalid, SqlJobs
from lepton_training.job import TRANSITIONS, Job, JobExists, JobNotFound, Measurement, Phase, State
from lepton_training.models import Base

ALLOWED = {
    ("QUEUED", "RUNNING"),
    ("QUEUED", "CANCELLED"),
    ("QUEUED", "FAILED"),
    ("RUNNING", "SUCCEEDED"),
    ("RUNNING", "FAILED"),
    ("RUNNING", "CANCELLING"),
    ("CANCELLING", "CANCELLED"),
    ("CANCELLING", "SUCCEEDED"),
    ("CANCELLING", "FAILED"),
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database.open(f"sqlite:///{tmp_path}/jobs.db", "lepton_training.migrations")
    yield opened
    opened.close()


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
    return Job(**(defaults | values))  # type: ignore[arg-type]  # of mixed types on purpose


def test_only_legal_transitions() -> None:
    """The table is the one of the documentation; ended states have no way out."""
    assert {(a, b) for a, targets in TRANSITIONS.items() for b in targets} == ALLOWED
    assert {s for s in State if s.ended} == {State.SUCCEEDED, State.FAILED, State.CANCELLED}


@pytest.mark.parametrize("begin", State)
@pytest.mark.parametrize("target", State)
async def test_the_repository_enforces_them(jobs: SqlJobs, begin: State, target: State) -> None:
    """An illegal transition is a bug and changes nothing."""
    job = await jobs.create(make(state=begin))
    if begin == target or (begin, target) in ALLOWED:
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


async def test_pages_newest_first(jobs: SqlJobs) -> None:
    """Every job once, whatever the size of the page."""
    now = datetime.now(UTC)
    for index in range(5):
        await jobs.create(make(f"j{index}", create_time=now + timedelta(seconds=index // 2)))
    seen, token = [], ""
    while True:
        page, token = await jobs.list_newest("w", 2, token)
        seen += [job.id for job in page]
        if not token:
            break
    assert seen == ["j4", "j3", "j2", "j1", "j0"]
    with pytest.raises(PageTokenInvalid):
        await jobs.list_newest("w", 2, "nonsense")


async def test_deleting_leaves_nothing(jobs: SqlJobs) -> None:
    """The record goes with its events."""
    await jobs.create(make())
    await jobs.delete("w", "a")
    assert await jobs.events("w", "a", 0, 10) == []
    with pytest.raises(JobNotFound):
        await jobs.get("w", "a")


def test_revisions_build_what_the_models_say(database: Database) -> None:
    """Migrations and tables agree."""
    assert differences(database.engine, Base.metadata) == []


def test_records_are_immutable() -> None:
    """A job changes by way of the repository only."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().state = State.FAILED  # type: ignore[misc]  # that is the point
