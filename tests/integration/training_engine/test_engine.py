"""Jobs as real processes: from queue to registered model, killed, cancelled, found again."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from lepton_training import process
from lepton_training.events import EventWriter
from lepton_training.job import Event, Job, JobActive, JobNotFound, Measurement, Phase, State
from tests.integration.training_engine.conftest import Start, script, wait_for_file

pytestmark = pytest.mark.integration


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
    """Paused, resumed, then killed, it ends with the weights of a job that nothing happened to."""
    training = await start(crashes_max=2)
    spec = {"hyperparameters": {"epochs": 3}, "seed": 5, "deterministic": True}
    (training.platform / "freeze").touch()
    await training.create("goes-on", retry={"initial_backoff_seconds": 0.01}, **spec)
    await wait_for_file(training.platform / "frozen")
    assert (await training.jobs.pause("w", "jobs/goes-on")).state is State.PAUSING
    await training.until("goes-on", _in(State.PAUSED))
    await training.create("unbroken", **spec)
    assert (await training.ended("unbroken")).state is State.SUCCEEDED

    (training.platform / "frozen").unlink()
    (training.platform / "freeze").touch()
    assert (await training.jobs.resume("w", "jobs/goes-on")).state is State.QUEUED
    await wait_for_file(training.platform / "frozen")
    os.kill(training.process_of("goes-on").pid, signal.SIGKILL)
    job = await training.ended("goes-on")
    assert job.state is State.SUCCEEDED
    assert (job.attempts, job.crashes) == (3, 1)
    assert [attempt.reason for attempt in job.history] == ["PAUSED", "WORKER_KILLED", ""]
    assert len(job.epoch_seconds) == 3
    said = (await training.log("goes-on")).splitlines()
    told = said.index("told to stop; the checkpoint is written")
    assert told < said.index("resuming at step 1") < said.index("resuming at step 2")
    broken, unbroken = (
        torch.load(training.platform / f"{name}.pt", weights_only=True)
        for name in ("goes-on", "unbroken")
    )
    assert all(torch.equal(broken[name], unbroken[name]) for name in unbroken)


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


async def _until_gone(found: process.ProcessId) -> None:
    async with asyncio.timeout(10):
        while process.is_alive(found):
            await asyncio.sleep(0.01)


def _in(state: State) -> Callable[[Event], bool]:
    return lambda event: isinstance(event.content, Job) and event.content.state is state


_running = _in(State.RUNNING)
