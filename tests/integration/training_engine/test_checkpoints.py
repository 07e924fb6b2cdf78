"""Jobs whose checkpoint in storage is all that is left of them, with real processes."""

from __future__ import annotations

import asyncio
import shutil
import signal
import zipfile
from datetime import timedelta
from typing import Any

import pytest
import torch

from lepton_training import process, supervisor
from lepton_training.events import EventWriter
from lepton_training.job import Event, Job, State
from tests.integration.training_engine.conftest import Start, Training, script, wait_for_file

pytestmark = pytest.mark.integration

NUMBERED = (
    "import json; from lepton_training.events import EventWriter\n"
    "request = json.loads((d / 'job.json').read_text())\n"
    "before = int((request['checkpoint'] or ['artifacts/0'])[0].removeprefix('artifacts/'))\n"
    "told = EventWriter(d)\n"
    "(d / 'checkpoint.pt').touch()\n"
    "told.write('checkpoint', artifact=f'artifacts/{before + 1}', sha256='0' * 64)\n"
)
"""Begins a script that goes on from checkpoint n and stores n + 1."""
WAITS = NUMBERED + "time.sleep(600)\n"


def _paused(event: Event) -> bool:
    return isinstance(event.content, Job) and event.content.state is State.PAUSED


async def lose(training: Training, job_id: str) -> None:
    """Kills the job's processes, and then removes its directory."""
    found = training.process_of(job_id)
    process.signal_group(found, signal.SIGKILL)
    async with asyncio.timeout(10):
        while process.group_alive(found):
            await asyncio.sleep(0.01)
    shutil.rmtree(training.files.directory("w", job_id))


async def discarded(training: Training) -> set[str]:
    return {artifact for _, artifact in await training.repository.discarded(100)}


async def test_a_job_goes_on_from_storage_where_its_directory_is_lost(start: Start) -> None:
    """It ends with the weights of a job that nothing happened to; then its copies are discarded."""
    training = await start(crashes_max=2)
    spec: dict[str, Any] = {"hyperparameters": {"epochs": 3}, "seed": 5, "deterministic": True}
    (training.platform / "freeze").touch()
    await training.create("lost", retry={"initial_backoff_seconds": 1}, **spec)
    await wait_for_file(training.platform / "frozen")
    stored = await training.stored("lost")
    await lose(training, "lost")
    job = await training.ended("lost")
    assert (job.state, job.attempts, job.failure_message) == (State.SUCCEEDED, 2, "")
    said = (await training.log("lost")).splitlines()
    assert said.index("fetched the checkpoint from storage") < said.index("resuming at step 1")
    (_, _, first, _), (_, _, second, _) = training.credentials.asked
    assert set(second) - set(first) == {stored.artifact}
    assert job.checkpoint is None
    assert stored.artifact in await discarded(training)

    await training.create("unbroken", **spec)
    assert (await training.ended("unbroken")).state is State.SUCCEEDED
    lost, unbroken = (
        torch.load(training.platform / f"{name}.pt", weights_only=True)
        for name in ("lost", "unbroken")
    )
    assert all(torch.equal(lost[name], unbroken[name]) for name in unbroken)


CODE = """
import time
import torch

def train(context):
    state = context.load_checkpoint()
    if state is None:
        context.save_checkpoint({"weights": torch.ones(2)})
        time.sleep(600)
    raise ValueError(f"went on from {float(state['weights'].sum())}")
"""


async def test_own_code_goes_on_from_storage(start: Start) -> None:
    """Its checkpoint lies in a folder of its own. A job that failed keeps the copy until it is
    deleted."""
    training = await start()
    (training.platform / "artifacts").mkdir()
    with zipfile.ZipFile(training.platform / "artifacts" / "code", "w") as archive:
        archive.writestr("user.py", CODE)
    await training.create(
        "own",
        recipe="",
        code={"artifact": "artifacts/code", "entry_point": "user:train"},
        retry={"initial_backoff_seconds": 1},
    )
    stored = await training.stored("own")
    await lose(training, "own")
    job = await training.ended("own")
    assert (job.state, job.failure_reason) == (State.FAILED, "CODE_FAILED")
    assert "ValueError: went on from 2.0" in job.failure_message
    assert job.checkpoint == stored
    assert await discarded(training) == set()
    await training.jobs.delete("w", "jobs/own")
    assert await discarded(training) == {stored.artifact}


async def test_a_job_moves_to_another_node_and_back(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each goes on from what the other stored; what the first still has counts for nothing, neither
    its checkpoint nor its events."""
    monkeypatch.setattr("lepton_training.job_queue.MOVES_AFTER", timedelta(0))
    body = NUMBERED + (
        "if before < 2: time.sleep(600)\n"
        "told.write('succeeded', model_version='models/m/versions/2', metrics={})\n"
    )
    training = await start(script(body), grace=0.2)
    await training.create("moves")
    await training.stored("moves", "artifacts/1")
    await training.jobs.pause("w", "jobs/moves")
    await training.until("moves", _paused)
    directory = training.files.directory("w", "moves")
    assert (directory / "checkpoint.pt").exists()

    training = await start(script(body), grace=0.2, node="there")
    await training.jobs.resume("w", "jobs/moves")
    await training.stored("moves", "artifacts/2")
    await training.jobs.pause("w", "jobs/moves")
    # Events of the past are those of the first pause.
    async with asyncio.timeout(30):
        while (await training.jobs.get("w", "jobs/moves")).state is not State.PAUSED:
            await asyncio.sleep(0.02)

    training = await start(script(body), grace=0.2)
    assert not directory.exists()
    directory.mkdir()
    EventWriter(directory).write("succeeded", model_version="models/m/versions/1", metrics={})
    (directory / "stale").touch()
    await training.jobs.resume("w", "jobs/moves")
    job = await training.ended("moves")
    assert (job.state, job.model_version) == (State.SUCCEEDED, "models/m/versions/2")
    assert [attempt.node for attempt in job.history] == ["here", "there", "here"]
    assert not (directory / "stale").exists()
    assert await discarded(training) == {f"artifacts/{number}" for number in (1, 2, 3)}


async def test_what_a_job_left_on_an_earlier_node_is_removed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its token lies there, and a checkpoint that is no longer the newest."""
    monkeypatch.setattr("lepton_training.job_queue.MOVES_AFTER", timedelta(0))
    here = await start(script(WAITS), grace=0.2)
    await here.create("moves")
    await here.stored("moves")
    await here.jobs.pause("w", "jobs/moves")
    await here.until("moves", _paused)
    there = await start(script(WAITS), grace=0.2, node="there")
    await there.jobs.resume("w", "jobs/moves")
    await there.stored("moves", "artifacts/2")
    here = await start(script(WAITS), grace=0.2)
    directory = here.files.directory("w", "moves")
    directory.mkdir()
    for name in ("job.json", "access-token", "checkpoint.pt"):
        (directory / name).touch()
    monkeypatch.setattr(supervisor, "_SWEEP_SECONDS", 0.0)
    here.supervisor.wake()
    async with asyncio.timeout(30):
        while directory.exists():
            await asyncio.sleep(0.02)
    assert there.files.directory("w", "moves").exists()


@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
async def test_a_cancelled_job_leaves_nothing_in_storage(start: Start, paused: bool) -> None:
    """Whether it runs or waits."""
    training = await start(script(WAITS), grace=0.2)
    await training.create("cancelled")
    await training.stored("cancelled")
    if paused:
        await training.jobs.pause("w", "jobs/cancelled")
        await training.until("cancelled", _paused)
    await training.jobs.cancel("w", "jobs/cancelled")
    job = await training.ended("cancelled")
    assert (job.state, job.checkpoint) == (State.CANCELLED, None)
    assert await discarded(training) == {"artifacts/1"}


async def test_a_worker_that_is_told_to_stop_stores_its_last_checkpoint(start: Start) -> None:
    """However long it would have been to the next look."""
    training = await start()
    (training.platform / "seldom").touch()
    (training.platform / "freeze").touch()
    await training.create("stopped")
    await wait_for_file(training.platform / "frozen")
    assert (await training.jobs.get("w", "jobs/stopped")).checkpoint is None
    await training.jobs.pause("w", "jobs/stopped")
    await training.until("stopped", _paused)
    stored = await training.stored("stopped")
    local = training.files.directory("w", "stopped") / "checkpoint.pt"
    assert (training.platform / stored.artifact).read_bytes() == local.read_bytes()
