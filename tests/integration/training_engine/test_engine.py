"""Jobs as real processes: from queue to registered model, killed, cancelled, found again."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import signal
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from lepton.api.training.v1 import training_pb2 as pb
from lepton_mesh.errors import PermissionDenied
from lepton_mesh.resources import InvalidId, InvalidName, InvalidPage, Page
from lepton_training import process
from lepton_training.events import EventWriter
from lepton_training.job import (
    Event,
    Job,
    JobActive,
    JobExists,
    JobNotFound,
    Measurement,
    Phase,
    RequestIdInvalid,
    State,
)
from lepton_training.job_files import JobFilesRemain
from lepton_training.jobs import PAGE_KEY, JobElsewhere
from lepton_training.spec import JobSpecInvalid

pytestmark = pytest.mark.integration

Start = Callable[..., Awaitable[Any]]
READY = "import os, pathlib, sys, time; d = pathlib.Path(os.environ['LEPTON_JOB_DIR']); "


def script(body: str) -> tuple[str, ...]:
    """A job's process that runs ``body``; ``d`` is its directory."""
    return (sys.executable, "-c", READY + body)


async def wait_for_file(path: Path) -> None:
    """Returns when the file is there."""
    async with asyncio.timeout(30):
        while not path.exists():  # noqa: ASYNC240 - another process makes it
            await asyncio.sleep(0.02)


async def test_a_job_from_spec_to_registered_model(start: Start) -> None:
    """The real worker on real digits; events complete and in order; the model is served raw."""
    training = await start()
    created = await training.create("digits", seed=3, hyperparameters={"epochs": 4})
    assert created.state is State.QUEUED
    assert created.spec["dataset"] == "datasets/digits/versions/7"

    job = await training.ended("digits")
    assert (job.state, job.failure_message) == (State.SUCCEEDED, "")
    assert job.model_version == "models/digits/versions/1"
    assert job.progress == 1.0
    assert len(job.epoch_seconds) == 4
    assert job.metrics["test_accuracy"] > 0.85
    assert job.metrics["parity_max_abs_error"] < 1e-5
    assert training.credentials.asked == [
        ("w", "jobs/digits", ("datasets/digits/versions/7",), ("models/digits", "jobs/digits"))
    ]

    events = [event async for event in training.jobs.watch("w", "jobs/digits", 0)]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    phases = [event.content.phase for event in events if isinstance(event.content, Job)]
    assert phases == [
        Phase.NONE,
        Phase.NONE,
        Phase.PREPARING,
        Phase.TRAINING,
        Phase.EVALUATING,
        Phase.EXPORTING,
        Phase.REGISTERING,
        Phase.NONE,
    ]
    ends = [e.content for e in events if isinstance(e.content, Measurement) and e.content.epoch_end]
    assert [measurement.epoch for measurement in ends] == [1, 2, 3, 4]
    assert "chose " in await training.log("digits")

    published = json.loads((training.platform / "published.json").read_text())
    assert published["dataset_digest"] == "sha256:" + "0" * 64
    assert published["inputs"] == [["images", "UINT8", [-1, 8, 8]]]
    assert published["hyperparameters"]["hidden"] == 128
    assert published["hyperparameters"]["batch_size"] == 16
    session = onnxruntime.InferenceSession(training.platform / "model.onnx")
    (probabilities,) = session.run(None, {"images": np.zeros((3, 8, 8), np.uint8)})
    assert probabilities.sum(axis=1) == pytest.approx(1.0)

    kept = {path.name for path in training.files.directory("w", "digits").iterdir()}
    assert kept == {"events.jsonl", "log.txt", "process.json"}
    await training.jobs.delete("w", "jobs/digits")
    with pytest.raises(JobNotFound):
        await training.jobs.get("w", "jobs/digits")


async def test_a_worker_goes_on_from_its_checkpoint(start: Start) -> None:
    """Told to stop while no service looks, then killed: the job succeeds, one crash counted."""
    training = await start(crashes_max=2)
    (training.platform / "freeze").touch()
    await training.create("goes-on", hyperparameters={"epochs": 3})
    await wait_for_file(training.platform / "frozen")
    await training.supervisor.close()
    assert process.stop_recorded(training.files.root, 20) == 1

    (training.platform / "frozen").unlink()
    (training.platform / "freeze").touch()
    training = await start(crashes_max=2)
    await wait_for_file(training.platform / "frozen")
    os.kill(training.process_of("goes-on").pid, signal.SIGKILL)
    job = await training.ended("goes-on")
    assert job.state is State.SUCCEEDED
    assert (job.attempts, job.crashes) == (3, 1)
    assert len(job.epoch_seconds) == 3
    said = (await training.log("goes-on")).splitlines()
    told = said.index("told to stop; the checkpoint is written")
    assert told < said.index("resuming at step 1") < said.index("resuming at step 2")


async def test_a_restarted_service_finds_its_jobs_again(start: Start) -> None:
    """The process outlives the service; what it said meanwhile is not lost."""
    body = (
        "from lepton_training.events import EventWriter; w = EventWriter(d)\n"
        "w.write('phase', phase='TRAINING', progress=0.1)\n"
        "while not (d / 'go').exists(): time.sleep(0.02)\n"
        "w.write('measurement', step=1, epoch=1, epochs=1, progress=0.5, metrics={'x': 2.5},"
        " epoch_end=True, epoch_seconds=1.5)\n"
        "print('said', flush=True)\n"
        "w.write('succeeded', model_version='models/m/versions/1', metrics={'y': 1.0})\n"
        "(d.parent / 'done').touch()\n"
    )
    training = await start(script(body))
    await training.create("outlives")
    await training.until("outlives", lambda e: getattr(e.content, "phase", "") == Phase.TRAINING)
    found = training.process_of("outlives")
    directory = training.files.directory("w", "outlives")
    await training.supervisor.close()
    assert process.is_alive(found)
    (directory / "go").touch()
    await wait_for_file(directory.parent / "done")

    training = await start(script(body))
    job = await training.ended("outlives")
    assert (job.state, job.attempts) == (State.SUCCEEDED, 1)
    assert job.metrics == {"x": 2.5, "y": 1.0}
    assert job.epoch_seconds == (1.5,)
    assert await training.log("outlives") == "said"


async def test_a_running_job_is_adopted_and_can_be_cancelled(start: Start) -> None:
    """The new life of the service stops a process that it did not start."""
    body = "time.sleep(600)"
    training = await start(script(body))
    await training.create("adopted")
    await wait_for_file(training.files.directory("w", "adopted") / process.PROCESS_FILE)
    found = training.process_of("adopted")
    training = await start(script(body))
    assert (await training.jobs.cancel("w", "jobs/adopted")).state is State.CANCELLING
    assert (await training.ended("adopted")).state is State.CANCELLED
    assert not process.group_alive(found)


async def test_cancel_kills_what_ignores_it(start: Start) -> None:
    """SIGTERM, then SIGKILL, to the process and to what it started in a group of its own."""
    body = (
        "import signal, subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "subprocess.Popen([sys.executable, '-c', 'import signal, time, os, pathlib;'\n"
        " 'signal.signal(signal.SIGTERM, signal.SIG_IGN); os.setpgid(0, 0);'\n"
        " 'pathlib.Path(\"ready\").touch(); time.sleep(600)'])\n"
        "time.sleep(600)"
    )
    training = await start(script(body), grace=0.2)
    await training.create("stubborn")
    await wait_for_file(training.files.directory("w", "stubborn") / "ready")
    found = training.process_of("stubborn")
    with pytest.raises(JobActive):
        await training.jobs.delete("w", "jobs/stubborn")
    await training.jobs.cancel("w", "jobs/stubborn")
    assert (await training.ended("stubborn")).state is State.CANCELLED
    assert not process.group_alive(found)
    again = await training.jobs.cancel("w", "jobs/stubborn")
    assert again.state is State.CANCELLED


async def test_a_job_in_the_queue_is_cancelled_at_once(start: Start) -> None:
    """Cores bound what runs: the second job waits, and never starts."""
    training = await start(script("time.sleep(600)"), cores=2)
    await training.create("first", resources={"cpus": 2})
    await training.until("first", _running)
    await training.create("second", resources={"cpus": 1})
    assert (await training.jobs.get("w", "jobs/second")).state is State.QUEUED
    cancelled = await training.jobs.cancel("w", "jobs/second")
    assert (cancelled.state, cancelled.attempts) == (State.CANCELLED, 0)
    await training.jobs.cancel("w", "jobs/first")
    assert (await training.ended("first")).state is State.CANCELLED


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
    await training.create("fails", resources=resources)
    job = await training.ended("fails")
    assert (job.state, job.failure_reason) == (State.FAILED, reason)
    assert message in job.failure_message
    left = {path.name for path in training.files.directory("w", "fails").iterdir()}
    assert not left & {"access-token", "join-token", "data"}


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


async def test_a_job_too_large_for_this_node_holds_up_nobody(start: Start) -> None:
    """One that was queued on a larger node waits for it; all cores means those of its node."""
    training = await start(script("sys.exit(1)"), cores=4)
    await training.supervisor.close()
    await training.create("too-large", resources={"cpus": 4})
    await training.create("all-cores", resources={"cpus": 0})
    training = await start(script("sys.exit(1)"), cores=2)
    job = await training.ended("all-cores")
    assert (job.cpus, job.failure_reason) == (2, "WORKER_FAILED")
    assert (await training.jobs.get("w", "jobs/too-large")).state is State.QUEUED


async def test_a_damaged_dataset_fails_the_job_in_words(start: Start) -> None:
    """The worker's own error reaches the user."""
    training = await start()
    (training.platform / "dataset").unlink()
    (training.platform / "dataset").mkdir()
    await training.create("damaged")
    job = await training.ended("damaged")
    assert (job.state, job.failure_reason) == (State.FAILED, "TRAINING_DATA_INVALID")
    assert "train-images-idx3-ubyte.gz is missing" in job.failure_message


async def test_what_cannot_be_trained_is_refused(start: Start) -> None:
    """A table is no set of images; nothing is kept of a spec that is only checked."""
    training = await start(script("pass"))
    with pytest.raises(JobSpecInvalid, match="DATASET_FORMAT_IDX"):
        await training.create("table", dataset="datasets/table/versions/1")
    with pytest.raises(JobSpecInvalid, match=r"trains on DATASET_FORMAT_CSV or DATASET_FORMAT_RAW"):
        await training.create("digits", recipe="text_bag", hyperparameters={})
    chosen = await training.jobs.create(
        "w",
        "users/ada",
        {"recipe": "text_bag", "dataset": "datasets/table/versions/1", "model": "models/m"},
        validate_only=True,
    )
    assert re.fullmatch(r"text-bag-[0-9a-f]{8}", chosen.id)  # as ids are: no underscore
    checked = await training.jobs.create(
        "w",
        "users/ada",
        {"recipe": "cnn", "dataset": "datasets/digits/versions/1", "model": "models/m"},
        validate_only=True,
    )
    assert checked.spec["hyperparameters"]["epochs"] == 5
    assert await training.jobs.list_page("w", Page(1, None, "jobs")) == ([], "")
    job = await training.create("taken")
    for request_id in ("", "another"):
        with pytest.raises(JobExists):
            await training.jobs.create(
                "w",
                "users/ada",
                job.spec,
                job_id="taken",
                request_id=request_id,
                validate_only=True,
            )


@pytest.mark.parametrize("how", ["after the service", "with the service"])
async def test_processes_are_stopped_and_jobs_go_on(start: Start, how: str) -> None:
    """The next start takes the job up again, where not even one crash is forgiven."""
    body = (
        "from lepton_training.events import EventWriter; f = d / 'seen'\n"
        "if not f.exists(): f.touch(); time.sleep(600)\n"
        "EventWriter(d).write('succeeded', model_version='models/m/versions/1', metrics={})\n"
    )
    training = await start(script(body), crashes_max=1)
    await training.create("stopped")
    await wait_for_file(training.files.directory("w", "stopped") / "seen")
    found = training.process_of("stopped")
    if how == "with the service":
        os.kill(found.pid, signal.SIGTERM)
        await _until_gone(found)
        await training.supervisor.close()
    else:
        await training.supervisor.close()
        assert process.stop_recorded(training.files.root) == 1
    assert not process.group_alive(found)
    training = await start(script(body), crashes_max=1)
    job = await training.ended("stopped")
    assert (job.state, job.attempts, job.crashes) == (State.SUCCEEDED, 2, 0)


@pytest.mark.parametrize(
    ("record", "state"),
    [
        ({"start_time": datetime.now(UTC) - timedelta(days=2)}, State.SUCCEEDED),
        ({"run_seconds": 3601.0}, State.FAILED),
    ],
    ids=["a stop of two days", "an hour of work"],
)
async def test_time_counts_while_the_job_runs(
    start: Start, record: dict[str, Any], state: State
) -> None:
    """A stopped stack does not use up the job's time; its earlier lives' work does."""
    body = (
        "from lepton_training.events import EventWriter; f = d / 'seen'\n"
        "if not f.exists(): f.touch(); time.sleep(600)\n"
        "while not (d / 'go').exists(): time.sleep(0.02)\n"
        "EventWriter(d).write('succeeded', model_version='models/m/versions/1', metrics={})\n"
    )
    training = await start(script(body), grace=0.2)
    await training.create("limited", resources={"cpus": 1, "timeout_seconds": 3600})
    directory = training.files.directory("w", "limited")
    await wait_for_file(directory / "seen")
    await training.supervisor.close()
    assert process.stop_recorded(training.files.root) == 1
    stopped = await training.jobs.get("w", "jobs/limited")
    assert await training.repository.change(stopped, [State.RUNNING], record) is not None
    assert training.credentials.seconds == [25 * 3600]  # its hour, and a day

    training = await start(script(body), grace=0.2)
    if state is State.SUCCEEDED:
        (directory / "go").touch()
    job = await training.ended("limited")
    assert (job.state, job.attempts) == (state, 2)
    assert job.failure_reason == ("TIMEOUT" if state is State.FAILED else "")
    assert job.run_seconds > record.get("run_seconds", 0.0)


async def test_a_job_is_not_taken_for_an_earlier_one_of_its_id(start: Start) -> None:
    """Files and a process that outlived an earlier job are removed, not read."""
    body = (
        "from lepton_training.events import EventWriter; f = d.parent / 'go'\n"
        "print('mine', flush=True)\n"
        "while not f.exists(): time.sleep(0.02)\n"
        "EventWriter(d).write('succeeded', model_version='models/m/versions/2', metrics={})\n"
    )
    training = await start(script(body), cores=1)
    directory = training.files.directory("w", "again")
    directory.mkdir(parents=True)
    EventWriter(directory).write("succeeded", model_version="models/m/versions/1", metrics={})
    (directory / "log.txt").write_text("theirs\n")
    (directory / "checkpoint.pt").write_text("theirs")
    left = process.start([sys.executable, "-c", "import time; time.sleep(600)"], directory, {})
    await training.create("first")
    await training.until("first", _running)
    await training.create("again")
    assert await training.log("again") == ""
    (directory.parent / "go").touch()
    job = await training.ended("again")
    assert (job.state, job.model_version) == (State.SUCCEEDED, "models/m/versions/2")
    assert await training.log("again") == "mine"
    assert not process.group_alive(left)


async def test_files_that_cannot_be_removed_are_not_forgotten(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleting fails in words and keeps the record; a new job in their place fails."""
    training = await start(script("sys.exit(1)"))
    await training.create("stays")
    await training.ended("stays")

    def refuse(path: Path) -> None:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("lepton_training.job_files.shutil.rmtree", refuse)
    with pytest.raises(JobFilesRemain, match="Permission denied"):
        await training.jobs.delete("w", "jobs/stays")
    stays = await training.jobs.get("w", "jobs/stays")
    await training.repository.delete("w", "stays")
    await training.create("stays", seed=2)
    job = await training.ended("stays")
    assert job.create_time > stays.create_time
    assert (job.state, job.failure_reason, job.attempts) == (State.FAILED, "JOB_FILES_REMAIN", 0)


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


async def test_pages_of_jobs(start: Start) -> None:
    """Every job once, newest first, by the tokens that the pages give."""
    training = await start(script("time.sleep(600)"), cores=1)
    for job_id in ("a", "b", "c"):
        await training.create(job_id)
    jobs, token = await training.jobs.list_page("w", Page(2, None, "jobs"))
    asked = pb.ListJobsRequest(page_size=2, page_token=token)
    rest = await training.jobs.list_page("w", Page.of(asked, "jobs", *PAGE_KEY))
    assert [job.id for job in jobs] == ["c", "b"]
    assert ([job.id for job in rest[0]], rest[1]) == (["a"], "")


@pytest.mark.parametrize("key", [(10**30, "a"), (-(10**18), "a"), (0, "A\0")])
async def test_a_crafted_page_token_is_refused(start: Start, key: tuple[int, str]) -> None:
    """Times that do not exist and ids that no job has are the caller's fault, not ours."""
    training = await start(script("pass"))
    with pytest.raises(InvalidPage):
        await training.jobs.list_page("w", Page(1, key, "jobs"))


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"request_id": "x" * 129}, RequestIdInvalid),
        ({"request_id": "a\0b"}, RequestIdInvalid),
        ({"job_id": "No Id"}, InvalidId),
    ],
)
async def test_ids_are_checked(
    start: Start, values: dict[str, str], error: type[Exception]
) -> None:
    """Before anything is asked or kept."""
    training = await start(script("pass"))
    with pytest.raises(error):
        await training.jobs.create("w", "users/ada", {}, **values)
    with pytest.raises(InvalidName):
        await training.jobs.get("w", "models/a")


async def _until_gone(found: process.ProcessId) -> None:
    async with asyncio.timeout(10):
        while process.is_alive(found):
            await asyncio.sleep(0.01)


def _running(event: Event) -> bool:
    return isinstance(event.content, Job) and event.content.state is State.RUNNING
