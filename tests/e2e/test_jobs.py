"""Training jobs through stops and kills, by the commands that users type."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from lepton.api.training.v1 import training_pb2 as pb
from lepton.client import Client, load_profile
from lepton_local.home import Home
from lepton_local.processes import belonging_to, running
from lepton_training import process
from tests.e2e.conftest import LEPTON, Command

pytestmark = pytest.mark.e2e

# Single images: some seconds of training on a quiet machine, with a checkpoint at any step.
SPEC = """
recipe: mlp
dataset: datasets/digits/versions/1
model: models/digits
hyperparameters:
  epochs: 60
  batch_size: 1
  learning_rate: 0.0001
resources:
  cpus: 1
"""


@dataclass(frozen=True)
class Survivor:
    """A job that went through `down`, `up` and the kill of its service."""

    job: Any
    """As `lepton job watch` printed it at the end."""
    left_after_down: list[psutil.Process]
    worker_after_kill: bool
    """Whether the job's process before the kill still ran after it."""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Iterator[Command]:
    """A stack of this module's own: it is stopped and its processes are killed."""
    directory = tmp_path_factory.mktemp("jobs")
    command = Command(directory / "home", directory / "config.yaml")
    (directory / "spec.yaml").write_text(SPEC)
    try:
        command.ok("up", "--port", "0")
        command.ok("data", "push", "digits", digits)
        yield command
    finally:
        command("down")


@pytest.fixture(scope="module")
def survivor(stack: Command) -> Survivor:
    """Mid-job, `lepton down`; after `lepton up`, mid-job again, kill -9 of the training service."""
    _create(stack, "survivor")
    with _log_of(stack, "survivor") as wait_for:
        wait_for("epoch 2 of")
    stack.ok("down")
    left = _processes_of(stack)
    stack.ok("up", "--port", "0")
    with _log_of(stack, "survivor") as wait_for:
        wait_for("resuming at step")
        wait_for("epoch ")
        worker = _process_of_job(stack, "survivor")
        (service,) = _processes_of(stack, "lepton_training")
        service.kill()
        service.wait(10)
        # By the same reader, from the service's next life: far beyond what its pipe may hold.
        wait_for("epoch 50 of")
        still = process.is_alive(worker)
    return Survivor(stack.json("job", "watch", "survivor"), left, still)


def test_down_leaves_nothing_and_the_job_goes_on(survivor: Survivor) -> None:
    """The process ends with the stack; the next stack starts another from its checkpoint."""
    assert survivor.left_after_down == []
    assert survivor.job["state"] == "SUCCEEDED"
    assert survivor.job["attempts"] == 2
    assert len(survivor.job["epoch_seconds"]) == 60


def test_a_killed_service_does_not_stop_its_job(survivor: Survivor) -> None:
    """The same process trained on, and the service's next life found it."""
    assert survivor.worker_after_kill
    assert survivor.job["model_version"] == "models/digits/versions/1"


def test_a_late_reader_sees_everything(stack: Command, survivor: Survivor) -> None:
    """Log and events from their first on, through all that happened."""
    log = stack.ok("job", "logs", "survivor").splitlines()
    assert "preparing" in log[:2]  # the certificate may come first
    assert log.index("told to stop; the checkpoint is written") < log.index("registering")
    assert [line.split()[1] for line in log if line.startswith("epoch ")] == [
        str(epoch) for epoch in range(1, 61)
    ]
    with Client(load_profile("local", stack.config)) as client:
        events = list(client.jobs.watch("survivor"))
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[0].job.state == pb.Job.QUEUED
    assert events[-1].job.state == pb.Job.SUCCEEDED
    ends = [e.measurement.epoch for e in events if e.measurement.epoch_end]
    assert ends == list(range(1, 61))


def test_cancel_ends_the_job_and_its_process(stack: Command) -> None:
    """A job in mid-training is CANCELLED, and none of its processes is left."""
    _create(stack, "cancelled")
    with _log_of(stack, "cancelled") as wait_for:
        wait_for("epoch 2 of")
    worker = _process_of_job(stack, "cancelled")
    assert process.is_alive(worker)
    stack.ok("job", "cancel", "cancelled")
    watched = stack("job", "watch", "cancelled")
    assert watched.returncode == 1
    assert "CANCELLED" in watched.stderr
    assert not process.group_alive(worker)


def _create(stack: Command, job: str) -> None:
    stack.ok("job", "create", "-f", stack.config.parent / "spec.yaml", "--id", job)


@contextmanager
def _log_of(stack: Command, job: str) -> Iterator[Callable[[str], None]]:
    """Follows a job's log; what it yields returns at the next line that begins with a text."""
    reader = subprocess.Popen(
        [LEPTON, "job", "logs", job, "--follow"],
        env={**stack.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout is not None
    lines = reader.stdout

    def wait_for(beginning: str) -> None:
        seen = []
        for line in lines:
            seen.append(line)
            if line.startswith(beginning):
                return
        raise AssertionError(f"no line begins with {beginning!r}: {''.join(seen)}")

    try:
        yield wait_for
    finally:
        reader.kill()
        reader.wait()
        lines.close()


def _process_of_job(stack: Command, job: str) -> process.ProcessId:
    (directory,) = stack.home.glob(f"training/jobs/*/{job}")
    found = process.recorded(directory)
    assert found is not None
    return found


def _processes_of(stack: Command, module: str = "") -> list[psutil.Process]:
    """Processes of the stack; of one module where it is named."""
    home = Home(stack.home)
    return running(home, module) if module else belonging_to(home)
