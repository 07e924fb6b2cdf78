"""Jobs that wait, pause, and are tried again; what they are given is theirs alone."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lepton_mesh.errors import Unavailable
from lepton_training import process, supervisor
from lepton_training.job import Event, Job, JobNotPausable, JobNotPaused, Phase, State
from lepton_training.job_queue import Machine, Place
from tests.integration.training_engine.conftest import Start, script, wait_for_file

pytestmark = pytest.mark.integration

DONE = (
    "from lepton_training.events import EventWriter\n"
    "EventWriter(d).write('succeeded', model_version='models/m/versions/1', metrics={})\n"
)
"""Ends a script as a job that succeeded."""
UNTIL_GO = "while not (d.parent / 'go').exists(): time.sleep(0.02)\n"


def in_state(state: State) -> Callable[[Event], bool]:
    return lambda event: isinstance(event.content, Job) and event.content.state is state


async def place_of(training: Any, job_id: str) -> Place:
    (place,) = (await training.jobs.waiting([await training.jobs.get("w", job_id)])).values()
    return place


async def test_a_paused_job_frees_its_cores(start: Start) -> None:
    """Others run meanwhile; resumed, it goes on in its directory, and its clock stood still."""
    body = "(d / 'seen').touch()\n" + UNTIL_GO + DONE
    training = await start(script(body), cores=1, grace=0.2)
    await training.create("first", resources={"cpus": 1, "timeout_seconds": 3600})
    directory = training.files.directory("w", "first")
    await wait_for_file(directory / "seen")
    await training.create("second")
    place = await place_of(training, "jobs/second")
    assert (place.position, place.reason) == (1, "waits for 1 core, where 0 are free")

    found = training.process_of("first")
    assert (await training.jobs.pause("w", "jobs/first")).state is State.PAUSING
    await training.until("first", in_state(State.PAUSED))
    assert not process.group_alive(found)
    paused = await training.jobs.pause("w", "jobs/first")
    assert (paused.state, paused.phase, paused.end_time) == (State.PAUSED, Phase.NONE, None)
    await training.until("second", in_state(State.RUNNING))

    (directory.parent / "go").touch()
    assert (await training.ended("second")).state is State.SUCCEEDED
    assert (await training.jobs.get("w", "jobs/first")).run_seconds == paused.run_seconds
    assert (directory / "seen").exists()
    resumed = await training.jobs.resume("w", "jobs/first")
    assert (resumed.state, resumed.start_time) == (State.QUEUED, paused.start_time)
    job = await training.ended("first")
    assert (job.state, job.attempts, job.crashes) == (State.SUCCEEDED, 2, 0)
    assert [attempt.reason for attempt in job.history] == ["PAUSED", ""]
    for action, error in (
        (training.jobs.pause, JobNotPausable),
        (training.jobs.resume, JobNotPaused),
    ):
        with pytest.raises(error, match="SUCCEEDED"):
            await action("w", "jobs/first")


async def test_a_pause_outlives_the_service(start: Start) -> None:
    """What was asked while the service went down is done by its next life."""
    body = "(d / 'seen').touch()\ntime.sleep(600)"
    training = await start(script(body), grace=0.2)
    await training.create("paused")
    await wait_for_file(training.files.directory("w", "paused") / "seen")
    found = training.process_of("paused")
    await training.supervisor.close()
    await training.jobs.pause("w", "jobs/paused")
    with pytest.raises(JobNotPaused, match="wait until it is PAUSED"):
        await training.jobs.resume("w", "jobs/paused")
    assert process.is_alive(found)
    training = await start(script(body), grace=0.2)
    await training.until("paused", in_state(State.PAUSED))
    assert not process.group_alive(found)
    training = await start(script(body), grace=0.2)
    assert (await training.jobs.get("w", "jobs/paused")).state is State.PAUSED

    (training.files.directory("w", "paused") / "checkpoint.pt").touch()
    assert (await training.jobs.cancel("w", "jobs/paused")).state is State.CANCELLED
    kept = {path.name for path in training.files.directory("w", "paused").iterdir()}
    assert not kept & {"checkpoint.pt", "access-token"}


async def test_a_waiting_job_is_paused_at_once(start: Start) -> None:
    """It never starts until it is resumed, and then waits as if it had just come."""
    training = await start(script("time.sleep(600)"), cores=1)
    await training.create("runs")
    await training.until("runs", in_state(State.RUNNING))
    await training.create("waits")
    await training.create("behind")
    assert (await training.jobs.pause("w", "jobs/waits")).state is State.PAUSED
    assert (await place_of(training, "jobs/behind")).position == 1
    assert (await training.jobs.resume("w", "jobs/waits")).attempts == 0
    assert (await training.jobs.resume("w", "jobs/waits")).state is State.QUEUED
    assert (await place_of(training, "jobs/waits")).position == 2


async def test_files_of_jobs_that_another_node_ended_go(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a turn, and at the start, also those of jobs that are not known any more."""
    training = await start(script("time.sleep(600)"), cores=1)
    await training.create("runs")
    await training.until("runs", in_state(State.RUNNING))
    names = ("cancelled", "waits", "deleted")
    directories = [training.files.directory("w", name) for name in names]

    def leave(directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        for name in ("job.json", "access-token", "log.txt"):
            (directory / name).touch()

    async def until(path: Path, *, there: bool) -> None:
        async with asyncio.timeout(30):
            while path.exists() != there:  # noqa: ASYNC240 - the service makes and removes it
                await asyncio.sleep(0.02)

    # A job is RUNNING before its files are written.
    await until(training.files.directory("w", "runs") / "access-token", there=True)
    jobs = [await training.create(name) for name in names[:2]]
    for directory in directories:
        leave(directory)
    ended = {"state": State.CANCELLED, "end_time": datetime.now(UTC)}
    await training.repository.change(jobs[0], [State.QUEUED], ended)
    monkeypatch.setattr(supervisor, "_SWEEP_SECONDS", 0.0)
    training.supervisor.wake()
    await until(directories[2], there=False)
    await until(directories[0] / "access-token", there=False)
    await until(directories[0] / "job.json", there=False)
    assert (directories[0] / "log.txt").exists()
    assert (directories[1] / "access-token").exists()
    assert (training.files.directory("w", "runs") / "access-token").exists()

    monkeypatch.setattr(supervisor, "_SWEEP_SECONDS", 3600.0)
    directories[2].mkdir()
    (directories[2] / "log.txt").touch()
    training = await start(script("time.sleep(600)"), cores=1)
    assert not directories[2].exists()


async def test_files_are_left_alone_where_the_database_knows_no_job(start: Start) -> None:
    """It may be another database than the one that the files were made with."""
    training = await start(script(DONE), cores=1)
    directory = training.files.directory("w", "unknown")
    directory.mkdir(parents=True)
    (directory / "log.txt").touch()
    await start(script(DONE), cores=1)
    assert (directory / "log.txt").exists()


async def test_the_most_urgent_job_starts_first(start: Start) -> None:
    """Not the one that came first."""
    training = await start(script(UNTIL_GO + DONE), cores=1)
    await training.create("runs")
    await training.until("runs", in_state(State.RUNNING))
    for priority in ("LOW", "NORMAL", "HIGH"):
        await training.create(priority.lower(), priority=priority)
    (training.files.root / "w" / "go").touch()
    ended = [await training.ended(name) for name in ("low", "normal", "high")]
    by_start = sorted(ended, key=lambda job: job.history[0].start_time)
    assert [job.id for job in by_start] == ["high", "normal", "low"]


async def test_what_may_pass_is_tried_again(start: Start) -> None:
    """After a pause that doubles, without its cores; the history has every attempt."""
    body = (
        "from lepton_training.events import EventWriter\n"
        "from lepton_training.worker.execution import execute\n"
        "from lepton_mesh.errors import Unavailable\n"
        "def away(): raise Unavailable('storage is away')\n"
        "n = len(list(d.glob('try*'))); (d / f'try{n}').touch()\n"
        "if n == 1: os.kill(os.getpid(), 9)\n"
        "if n < 3: sys.exit(execute(d, away, away, away))\n" + DONE
    )
    training = await start(script(body), cores=1)
    retry = {"max_attempts": 4, "initial_backoff_seconds": 0.05, "max_backoff_seconds": 0.1}
    await training.create("again", retry=retry)
    job = await training.ended("again")
    assert (job.state, job.attempts, job.crashes) == (State.SUCCEEDED, 4, 3)
    assert [(one.number, one.reason) for one in job.history] == [
        (1, "UNAVAILABLE"),
        (2, "WORKER_KILLED"),
        (3, "UNAVAILABLE"),
        (4, ""),
    ]
    assert job.history[0].message == "storage is away"
    pauses = [
        (after.start_time - before.end_time).total_seconds()
        for before, after in zip(job.history, job.history[1:], strict=False)
    ]
    assert all(pause >= least for pause, least in zip(pauses, (0.05, 0.1, 0.1), strict=True))
    states = [
        event.content.state
        async for event in training.jobs.watch("w", "jobs/again", 0)
        if isinstance(event.content, Job)
    ]
    assert states.count(State.QUEUED) == 4


async def test_the_last_attempt_that_fails_is_the_end(start: Start) -> None:
    """The reason of the last one is the job's; a pause in between counts for nothing."""
    body = "(d / 'seen').touch()\nwhile not (d / 'go').exists(): time.sleep(0.02)\nos.kill(0, 9)"
    training = await start(script(body), grace=0.2)
    await training.create("dies", retry={"max_attempts": 2, "initial_backoff_seconds": 3600})
    directory = training.files.directory("w", "dies")
    await wait_for_file(directory / "seen")
    await training.jobs.pause("w", "jobs/dies")
    await training.until("dies", in_state(State.PAUSED))
    (directory / "go").touch()
    await training.jobs.resume("w", "jobs/dies")
    await training.until("dies", lambda e: getattr(e.content, "crashes", 0) == 1)
    place = await place_of(training, "jobs/dies")
    assert place.reason.startswith("attempt 3 begins at ")
    assert place.reason.endswith("the last one ended with WORKER_KILLED")
    # Paused and resumed, it need not wait any longer.
    await training.jobs.pause("w", "jobs/dies")
    await training.jobs.resume("w", "jobs/dies")
    job = await training.ended("dies")
    assert (job.state, job.failure_reason, job.attempts) == (State.FAILED, "WORKER_KILLED", 3)
    assert [one.reason for one in job.history] == ["PAUSED", "WORKER_KILLED", "WORKER_KILLED"]


async def test_memory_is_bounded_over_all_processes(start: Start) -> None:
    """A job whose processes take more than it asked for ends, and is not tried again."""
    body = (
        "import subprocess\n"
        "hold = 'import time; x = bytearray(60 << 20); x[::4096] = x[::4096]; time.sleep(600)'\n"
        "[subprocess.Popen([sys.executable, '-c', hold]) for _ in range(2)]\n"
        "time.sleep(600)"
    )
    training = await start(script(body))
    await training.create("large", resources={"cpus": 1, "memory_mib": 100})
    job = await training.ended("large")
    assert (job.failure_reason, job.attempts) == ("OUT_OF_MEMORY", 1)
    assert "more than their 100" in job.failure_message


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
async def test_a_job_has_its_cores_and_gpus_for_itself(start: Start) -> None:
    """Two at once share nothing; one that asks for none sees no GPU."""
    body = (
        "say = [sorted(os.sched_getaffinity(0)), os.environ['CUDA_VISIBLE_DEVICES']]\n"
        "import json; (d / 'has.part').write_text(json.dumps(say))\n"
        "(d / 'has.part').rename(d / 'has'); time.sleep(600)"
    )
    first, second = sorted(os.sched_getaffinity(0))[:2]
    machine = Machine(2, 1000, gpus=("GPU-a", "GPU-b"), core_ids=(first, second))
    training = await start(script(body), machine=machine, grace=0.2)
    for name, gpus in (("one", 1), ("two", 0)):
        await training.create(name, resources={"cpus": 1, "gpus": gpus})
        await wait_for_file(training.files.directory("w", name) / "has")

    def has(name: str) -> str:
        return (training.files.directory("w", name) / "has").read_text()

    assert has("one") == f'[[{first}], "GPU-a"]'
    assert has("two") == f'[[{second}], ""]'
    await training.jobs.cancel("w", "jobs/one")
    await training.ended("one")
    await training.create("both", resources={"cpus": 1, "gpus": 2})
    await wait_for_file(training.files.directory("w", "both") / "has")
    assert has("both") == f'[[{first}], "GPU-a,GPU-b"]'


async def test_a_job_whose_processors_are_gone_gets_others(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits again, which counts as no failure; what is not there is given to none."""
    begin, tried = process.start, []

    def lose(*given: Any) -> process.ProcessId:
        tried.append(given[-1])
        if len(tried) == 1:
            raise process.CoresGone(errno.EINVAL, "processors are gone")
        return begin(*given)

    monkeypatch.setattr(process, "start", lose)
    core = min(os.sched_getaffinity(0))
    machine = Machine(3, 1000, core_ids=(9997, 9998, core))
    training = await start(script(DONE), machine=machine)
    await training.create("moves", resources={"cpus": 1})
    job = await training.ended("moves")
    assert (job.state, job.attempts, job.crashes) == (State.SUCCEEDED, 2, 0)
    assert [(one.reason, one.message) for one in job.history] == [
        ("INTERRUPTED", "its processors are gone"),
        ("", ""),
    ]
    assert tried == [(core,), (core,)]


async def test_a_job_may_read_what_it_begins_with(start: Start) -> None:
    """An alias is resolved when the job is made; the data that it is held to is the version's."""
    training = await start(script(DONE))
    warm = {"model_version": "models/m/aliases/best", "retain": {"max_drop": 0.1}}
    job = await training.create("warm", warm_start=warm)
    assert job.spec["warm_start"] == {
        "model_version": "models/m/versions/4",
        "partial": False,
        "retain": {"dataset": "datasets/older/versions/2", "max_drop": 0.1},
    }
    await training.ended("warm")
    ((_, _, reads, _),) = training.credentials.asked
    assert set(reads) == {
        "datasets/digits/versions/7",
        "datasets/older/versions/2",
        "artifacts/weights.pt",
        "artifacts/training.json",
    }
    assert job.warm_files["weights.pt"] == ("artifacts/weights.pt", "c" * 64)


async def test_a_job_has_a_new_token_before_its_own_ends(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it runs; an auth service that is away for a while does not matter."""
    monkeypatch.setattr("lepton_training.attendant._COUNT_SECONDS", 0.01)
    monkeypatch.setattr("lepton_training.job_credentials._RENEW_SECONDS", 0.2)
    monkeypatch.setattr("lepton_training.job_credentials._PAUSE_SECONDS", 0.1)
    body = (
        "first = (d / 'access-token').read_text()\n(d / 'seen').touch()\n"
        "while (d / 'access-token').read_text() == first: time.sleep(0.02)\n" + DONE
    )
    training = await start(script(body))
    await training.create("long")
    await wait_for_file(training.files.directory("w", "long") / "seen")
    training.credentials.refusal = Unavailable("auth is away")
    while not training.credentials.refused:
        await asyncio.sleep(0.02)
    training.credentials.refusal = None
    assert (await training.ended("long")).state is State.SUCCEEDED
    assert len({asked[:3] for asked in training.credentials.asked}) == 1
    assert set(training.credentials.seconds) == {7 * 24 * 3600}
