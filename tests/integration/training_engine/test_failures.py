"""Jobs that cannot be started, fail, or leave files that cannot be removed: each says why."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from lepton_mesh.errors import PermissionDenied
from lepton_training import process
from lepton_training.job import JobNotFound, State
from lepton_training.job_files import JobFilesRemain
from tests.integration.training_engine.conftest import HERE, Start, script

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("body", "reason", "message"),
    [
        ("print('about to fail', flush=True); sys.exit(3)", "WORKER_FAILED", "about to fail"),
        ("os.kill(os.getpid(), 9)", "WORKER_KILLED", "SIGKILL without a word, 2 times"),
        (
            "from lepton_training.events import EventWriter\n"
            "EventWriter(d).write('failed', reason='DISK_FULL', message='no space is left')\n"
            "sys.exit(1)",
            "DISK_FULL",
            "no space is left",
        ),
        ("time.sleep(600)", "TIMEOUT", "longer than its 1 s"),
    ],
    ids=["exits", "killed", "says why", "takes too long"],
)
async def test_a_failure_has_a_reason(start: Start, body: str, reason: str, message: str) -> None:
    """The reason, the remedy and the end of the log; nothing is left running."""
    training = await start(script(body), crashes_max=2, grace=0.2)
    resources = {"cpus": 1, "timeout_seconds": 1 if reason == "TIMEOUT" else 0}
    retry = {"initial_backoff_seconds": 0.01}
    await training.create("fails", resources=resources, retry=retry)
    job = await training.ended("fails")
    assert (job.state, job.failure_reason) == (State.FAILED, reason)
    assert message in job.failure_message
    left = {path.name for path in training.files.directory("w", "fails").iterdir()}
    assert not left & {"access-token", "join-token", "data"}
    if job.crashes > 1:  # it waited anew; the time that it ran is no waiting
        assert job.queue_time is not None and job.start_time is not None
        assert job.queue_time > job.start_time


async def test_a_job_that_may_not_have_credentials_fails(start: Start) -> None:
    """A refusal that trying again does not mend ends the job instead of holding up the queue."""
    training = await start(script("time.sleep(600)"))
    training.credentials.refusal = PermissionDenied("the training service may not issue them")
    await training.create("refused")
    job = await training.ended("refused")
    assert (job.state, job.failure_reason) == (State.FAILED, "PERMISSION_DENIED")
    assert (job.attempts, job.failure_message) == (0, "the training service may not issue them")


@pytest.mark.parametrize(
    ("number", "reason", "attempts"),
    [
        (errno.ENOSPC, "DISK_FULL", 1),
        (errno.EDQUOT, "DISK_FULL", 1),
        (errno.EIO, "WORKER_ERROR", 4),
    ],
)
async def test_a_job_that_cannot_be_started_fails(
    start: Start, monkeypatch: pytest.MonkeyPatch, number: int, reason: str, attempts: int
) -> None:
    """At once on a full disk, after a few attempts on anything else; a process is not forgotten."""
    started = []

    def refuse(path: Path, content: str) -> None:
        started.append(content)
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr("lepton_training.attendant._RETRY_SECONDS", 0.01)
    monkeypatch.setattr("lepton_training.process.Path.write_text", refuse)
    training = await start(script("time.sleep(600)"))
    await training.create("unstarted")
    job = await training.ended("unstarted")
    assert (job.state, job.failure_reason, job.attempts) == (State.FAILED, reason, attempts)
    assert len(training.credentials.asked) == len(started) == attempts
    for content in started:
        assert not process.group_alive(process.ProcessId(**json.loads(content)))


async def test_a_damaged_dataset_fails_the_job_in_words(start: Start) -> None:
    """The worker's own error reaches the user."""
    training = await start()
    (training.platform / "dataset").unlink()
    (training.platform / "dataset").mkdir()
    await training.create("damaged")
    job = await training.ended("damaged")
    assert (job.state, job.failure_reason) == (State.FAILED, "TRAINING_DATA_INVALID")
    assert "it has 0 training images of 0 classes" in job.failure_message


async def test_files_that_cannot_be_removed_are_not_forgotten(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleting says so, though the job is gone; a new job in their place fails."""
    training = await start(script("sys.exit(1)"))
    await training.create("stays")
    await training.ended("stays")

    def refuse(path: Path) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("lepton_training.job_files.shutil.rmtree", refuse)
    with pytest.raises(JobFilesRemain, match="Permission denied"):
        await training.jobs.delete("w", "jobs/stays")
    with pytest.raises(JobNotFound):
        await training.jobs.get("w", "jobs/stays")
    await training.create("stays", seed=2)
    job = await training.ended("stays")
    assert (job.state, job.failure_reason, job.attempts) == (State.FAILED, "JOB_FILES_REMAIN", 0)


async def test_a_record_does_not_grow_without_end(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ever new metrics and epochs, over all attempts, the first are kept."""
    monkeypatch.setattr("lepton_training.intake.EPOCHS_MAX", 20)
    body = (
        "from lepton_training.events import EventWriter\n"
        "for n in range(1, 101): EventWriter(d).write('measurement', step=n, epoch=n, epochs=n,"
        " progress=0.5, metrics={f'm{n}': 1.0, 'm1': float(n)}, epoch_end=True, epoch_seconds=n)\n"
        "EventWriter(d).write('failed', reason='DISK_FULL', message='')\n"
    )
    training = await start(script(body))
    await training.create("many")
    job = await training.ended("many")
    assert len(job.metrics) == 64 and job.metrics["m1"] == 100.0
    assert job.epoch_seconds == tuple(range(1, 21))


async def test_an_error_that_nobody_foresaw_stays_inside(start: Start) -> None:
    """Its text and traceback are in the job's log, and not in the message."""
    body = (
        "from lepton_training.worker import execution\n"
        "def burst(directory): raise RuntimeError('of the inside')\n"
        "execution._limit_memory = burst\n"
        f"sys.path.insert(0, {str(HERE)!r})\n"
        "import local_worker\n"
        "sys.exit(local_worker.main())\n"
    )
    training = await start(script(body))
    await training.create("bursts")
    job = await training.ended("bursts")
    assert (job.failure_reason, job.failure_message) == (
        "WORKER_ERROR",
        "internal error (RuntimeError); the job's log has the traceback",
    )
    assert "of the inside" in await training.log("bursts")
