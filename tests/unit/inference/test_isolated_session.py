"""Models in processes of their own: what a batch does to its process, and to nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lepton_inference.adapters import isolated_session
from lepton_inference.adapters.isolated_session import IsolatedSession
from lepton_inference.adapters.model_messages import LoadOrder
from lepton_inference.adapters.model_process import ModelProcess
from lepton_inference.adapters.onnx_runtime import load
from lepton_inference.batch import Outcome
from lepton_inference.batch_queue import RequestExpired
from lepton_inference.interruption import Interruption
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.model_errors import (
    InputRefused,
    MemoryLimit,
    ModelCrashed,
    ModelDoesNotFit,
    ModelRestarting,
    RunTooLong,
    RunUnwanted,
)
from lepton_inference.reports import properties
from lepton_inference.settings import (
    BatchingSettings,
    ExecutionSettings,
    Isolation,
    ModelSettings,
)
from tests import hostile_models as hostile
from tests.inference_models import identity, linear, two_by_two

TAILS = ((4,),)


class Loader:
    """Loads models, and closes them at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.sessions: list[Any] = []

    def __call__(self, content: bytes, isolation: str = "OWN_PROCESS", **execution: int) -> Any:
        path = self._folder / f"{len(self.sessions)}.onnx"
        path.write_bytes(content)
        settings = ExecutionSettings(isolation=Isolation(isolation), **execution)
        model = ModelSettings(execution=settings)
        self.sessions.append(load(path, model, name="lab/digits"))
        return self.sessions[-1]


@pytest.fixture
def loaded(tmp_path: Path) -> Iterator[Loader]:
    loader = Loader(tmp_path)
    yield loader
    for session in loader.sessions:
        session.close()


def images(value: float, rows: int = 1) -> np.ndarray[Any, Any]:
    return np.full((rows, 4), value, np.float32)


def kill(session: IsolatedSession) -> None:
    """Has its processes end while they run what they are asked next, within 0.3 s."""
    for pid in session.pids:
        os.kill(pid, signal.SIGSTOP)
        threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()


def serve(session: Any, **execution: int) -> LoadedModel:
    settings = ModelSettings(execution=ExecutionSettings(**execution))
    return LoadedModel(ModelSource("m", "1", "test", ""), session, settings)


def shared_memory() -> set[int]:
    """The memories that this process shares with models now, by inode."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists them
            if "memfd:model" in str(each.readlink()):
                found.add(each.stat().st_ino)
    return found


def open_descriptors() -> set[str]:
    # The one that lists them is closed again by the time that it is looked for.
    return {each.name for each in Path("/proc/self/fd").iterdir() if each.exists()}


@pytest.mark.parametrize("what", ["Popen", "memfd_create"])
def test_a_process_that_does_not_start_leaves_nothing_open(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is started again and again: neither the process nor the last memory is to be had."""
    memories = iter(("model-inputs", "model-outputs"))
    memfd_create = os.memfd_create

    def refuse(*_: object, **__: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "no more processes")

    def few(name: str, *flags: int) -> int:
        if name != next(memories, None):
            raise OSError(errno.EMFILE, "too many open files")
        return memfd_create(name, *flags)

    if what == "Popen":
        monkeypatch.setattr(subprocess, "Popen", refuse)
    else:
        monkeypatch.setattr(os, "memfd_create", few)
    gc.collect()
    before = open_descriptors()
    with pytest.raises(OSError, match=r"no more processes|too many open files"):
        ModelProcess.start()
    assert open_descriptors() == before


async def ask(model: LoadedModel, *values: float) -> list[Outcome | BaseException]:
    """One request for each value, all of them in one batch."""
    futures = [model.batcher.submit((images(value).tobytes(),), 1, TAILS) for value in values]
    return await asyncio.gather(*futures, return_exceptions=True)


def first_value(outcome: Any) -> float:
    batch, first = outcome
    return float(batch.arrays[0][first, 0])


def test_tensors_come_and_go(loaded: Loader) -> None:
    """Several, of any size, none of them changed by the next batch."""
    session = loaded(two_by_two())
    kept = []
    for rows in (1, 3, 300_000, 2):
        feeds = {
            "a": np.full((rows, 2), rows, np.float32),
            "b": np.ones((rows, 2), np.float32),
            "n": np.arange(rows).reshape(rows, 1),
        }
        kept.append((rows, feeds, session.run(feeds)))
    for rows, feeds, (total, count) in kept:
        assert total.shape == (rows, 2)
        assert (total == rows + 1).all()
        assert (count == feeds["n"]).all()


def test_text_comes_and_goes(loaded: Loader) -> None:
    """As it does within a process; nothing of no rows is lost either."""
    session = loaded(identity(onnx.TensorProto.STRING, ["batch", 1]))
    for texts in ([["ä"], [""], ["long" * 1000]], np.empty((0, 1), object)):
        given = np.array(texts, object)
        (told,) = session.run({"x": given})
        assert told.tolist() == given.tolist()


async def test_where_a_model_runs_is_chosen_and_told(loaded: Loader) -> None:
    """By its graph, its limits, or whoever says so; with the reason in its configuration."""
    limit = {"memory_limit_mib": 4096}
    for content, isolation, execution, expected, reason in (
        (linear(1.0), "AUTO", {}, "SHARED", "bound"),
        (linear(1.0), "AUTO", limit, "OWN_PROCESS", "limited"),
        (linear(1.0), "OWN_PROCESS", {}, "OWN_PROCESS", "asked"),
        (hostile.expands_to_its_value(), "AUTO", {}, "OWN_PROCESS", "Expand"),
        (hostile.expands_to_its_value(), "SHARED", {}, "SHARED", "asked"),
        (identity(1, ["batch", "length"]), "AUTO", {}, "OWN_PROCESS", "lengths"),
    ):
        session = loaded(content, isolation, **execution)
        assert isinstance(session, IsolatedSession) is (expected == "OWN_PROCESS")
        told = properties(serve(session, **execution))
        assert told["isolation"] == expected
        assert reason in told["isolation_reason"]
        assert told["memory_limit_mib"] == str(execution.get("memory_limit_mib", 0))


@pytest.mark.parametrize(("rows", "isolation"), [(8, "SHARED"), (1024, "OWN_PROCESS")])
def test_a_full_batch_is_tried(tmp_path: Path, rows: int, isolation: str) -> None:
    """What grows faster than its batch does is found by the largest there may be."""
    path = tmp_path / "model.onnx"
    path.write_bytes(hostile.grows_with_its_batch())
    session = load(path, ModelSettings(BatchingSettings(max_rows=rows)))
    assert session.placement.isolation.value == isolation
    assert (str(rows) in session.placement.isolation_reason) is (isolation == "OWN_PROCESS")
    session.close()


def test_a_batch_that_takes_too_much_memory_fails_alone(loaded: Loader) -> None:
    """At once; the process lives, and has its memory back."""
    session = loaded(hostile.expands_to_its_value(), memory_limit_mib=256)
    pids = session.pids
    for _ in range(3):
        for value in (1e10, 1e7 * 3):
            with pytest.raises(MemoryLimit, match="256"):
                session.run({"x": images(value)})
        (told,) = session.run({"x": images(1e7)})
        assert told[0, 0] == 1e7
    assert session.pids == pids


def test_a_model_that_its_limit_does_not_hold_is_not_served(loaded: Loader) -> None:
    """Found when it is loaded."""
    with pytest.raises(ModelDoesNotFit, match="64 MiB"):
        loaded(hostile.expands_to(1 << 22), memory_limit_mib=64)


def test_a_limit_below_what_loading_takes_is_told_as_one(loaded: Loader) -> None:
    """Not as a fault of ours: nothing that we import counts."""
    with pytest.raises(ModelDoesNotFit, match="memory_limit_mib, 1 MiB"):
        loaded(linear(1.0), memory_limit_mib=1)


async def test_a_batch_that_does_not_end_is_ended(loaded: Loader) -> None:
    """Those who shared it are answered; so is who comes next."""
    execution = {"max_run_ms": 1000}
    model = serve(loaded(hostile.endless_above(100.0), **execution), **execution)
    one, guilty, other = await ask(model, -1.0, 1000.0, -3.0)
    assert isinstance(guilty, RunTooLong)
    assert (first_value(one), first_value(other)) == (1.0, 3.0)
    assert first_value((await ask(model, -5.0))[0]) == 5.0
    assert model.statistics.failures["RUN_TOO_LONG"].count == 1


async def test_who_shared_a_batch_that_crashed_is_answered(loaded: Loader) -> None:
    """Each once more, alone, by the process that takes its place."""
    session = loaded(linear(1.0))
    model = serve(session)
    kill(session)
    outcomes = await ask(model, 1.0, 2.0, 3.0)
    assert [first_value(outcome) for outcome in outcomes] == [4.0, 8.0, 12.0]


async def test_a_request_that_crashes_its_process_is_told(
    loaded: Loader, caplog: pytest.LogCaptureFixture
) -> None:
    """And not run again; the log has how the process ended."""
    session = loaded(linear(1.0))
    model = serve(session)
    kill(session)
    (guilty,) = await ask(model, 1.0)
    assert isinstance(guilty, ModelCrashed)
    (ended,) = (one for one in caplog.records if one.message == "a model's process failed")
    assert vars(ended)["model"] == "lab/digits"
    assert "SIGKILL" in vars(ended)["detail"]
    assert "memory" in vars(ended)["detail"]
    assert first_value((await ask(model, 1.0))[0]) == 4.0


def test_a_process_that_ended_while_idle_is_replaced_before_a_run(loaded: Loader) -> None:
    """The kernel, short of memory, kills whom it likes: the next request is not to blame.

    Whose model a process runs is told to those who list processes.
    """
    session = loaded(linear(1.0))
    (pid,) = session.pids
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    (outputs,) = session.run({"image": images(1.0)})
    assert len(outputs) == 1
    (other,) = session.pids
    assert other != pid
    assert b"lab/digits" in Path(f"/proc/{other}/cmdline").read_bytes().split(b"\0")


async def test_a_run_that_nobody_waits_for_is_ended(loaded: Loader) -> None:
    """Cancelled or too late; who waits behind it is answered, and it is no crash."""
    session = loaded(hostile.endless_above(100.0))
    model = serve(session)
    endless = (images(1000.0).tobytes(),)
    cancelled = model.batcher.submit(endless, 1, TAILS)
    await asyncio.sleep(0)  # its batch has begun
    behind = model.batcher.submit((images(-5.0).tobytes(),), 1, TAILS)
    pids = session.pids
    cancelled.cancel()
    assert first_value(await behind) == 5.0
    assert session.pids != pids
    soon = model.batcher.now() + 0.01
    with pytest.raises(RequestExpired):
        await model.batcher.submit(endless, 1, TAILS, soon)
    assert first_value((await ask(model, -3.0))[0]) == 3.0
    counts = {reason: failed.count for reason, failed in model.statistics.failures.items()}
    assert counts == {"CANCELLED": 1, "REQUEST_EXPIRED": 1}
    assert session.crashes_of_late == 0


def test_a_run_is_not_ended_while_that_costs_more(loaded: Loader) -> None:
    """Nobody is even asked whether it is wanted before it took as long as a start takes."""
    session = loaded(linear(1.0))
    pids = session.pids
    session.run_while({"image": images(1.0)}, lambda: pytest.fail("asked"))
    assert session.pids == pids


def test_a_run_goes_on_while_it_is_wanted(loaded: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for again and again; what a start took last is how long it is left alone."""
    monkeypatch.setattr(isolated_session, "_RESTART_SECONDS", 0.01)
    session = loaded(hostile.endless_above(100.0))
    answers = iter([True, True, True, False])
    with pytest.raises(RunUnwanted):
        session.run_while({"x": images(1000.0)}, lambda: next(answers))
    assert not list(answers)
    (told,) = session.run({"x": images(-7.0)})
    assert told[0, 0] == 7.0
    assert session._restart_seconds > 0.01


def test_crashes_in_a_row_are_paused_for(loaded: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is made good at once; after more of them, batches are refused meanwhile."""
    monkeypatch.setattr(isolated_session, "_FIRST_PAUSE_SECONDS", 30.0)
    session = loaded(linear(1.0))
    for _ in range(2):
        kill(session)
        with pytest.raises(ModelCrashed):
            session.run({"image": images(1.0)})
        if not session.crashes_of_late > 1:
            session.run({"image": images(1.0)})
    with pytest.raises(ModelRestarting) as refused:
        session.run({"image": images(1.0)})
    assert 20 < refused.value.retry_after_seconds <= 30


def test_a_process_that_cannot_start_now_is_started_later(
    loaded: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without memory for a moment does not stop a model for good."""
    monkeypatch.setattr(isolated_session, "_FIRST_PAUSE_SECONDS", 0.01)
    session = loaded(linear(1.0))
    start, refusals = ModelProcess.start, [OSError(errno.ENOMEM, "no memory")]

    def start_again(name: str) -> ModelProcess:
        if refusals:
            raise refusals.pop()
        return start(name)

    monkeypatch.setattr(ModelProcess, "start", start_again)
    kill(session)
    with pytest.raises(ModelCrashed):
        session.run({"image": images(1.0)})
    assert session.run({"image": images(1.0)})
    assert not refusals


async def test_instances_are_processes(loaded: Loader) -> None:
    """One that is lost does not stop the others."""
    session = loaded(linear(1.0), instances=2)
    first, second = session.pids
    assert first != second
    os.kill(first, signal.SIGKILL)
    answers = []
    for _ in range(4):
        try:
            answers.append(session.run({"image": images(1.0)})[0][0, 0])
        except ModelCrashed:
            answers.append(None)
    assert answers.count(None) == 1
    assert second in session.pids


def test_nothing_is_left_of_a_closed_model(loaded: Loader) -> None:
    """No process, and no memory that it shared."""
    before = shared_memory()
    session = loaded(linear(1.0), instances=2)
    pids = session.pids
    session.run({"image": images(1.0)})
    session.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert shared_memory() <= before  # other tests' may go meanwhile


def test_a_model_that_fails_says_so(loaded: Loader) -> None:
    """What ONNX Runtime refuses is no crash."""
    session = loaded(two_by_two())
    wrong = {"a": np.ones((2, 2), np.float32), "b": np.ones((3, 2), np.float32)}
    with pytest.raises(InputRefused, match=r"Add.*2 by 3"):
        session.run({**wrong, "n": np.ones((2, 1), np.int64)})
    assert len(session.pids) == 1


class AfterTrial(Interruption):
    """Comes once what was to be ended is over."""

    @contextlib.contextmanager
    def during(self, end: Callable[[], None]) -> Iterator[None]:
        with super().during(end):
            yield
        self.interrupt()


def test_a_model_that_is_unwanted_after_its_trial_is_not_loaded(tmp_path: Path) -> None:
    """Nor are its further instances started; no process is left."""
    path = tmp_path / "model.onnx"
    path.write_bytes(linear(3))
    with pytest.raises(ModelDoesNotFit, match="nobody waits"):
        load(path, ModelSettings(), AfterTrial())
    execution = ExecutionSettings(instances=2, isolation=Isolation.OWN_PROCESS)
    order = LoadOrder(path, ModelSettings(execution=execution))
    unwanted = Interruption()
    unwanted.interrupt()
    with ModelProcess.start() as first:
        found = first.load(order, 60)
        with pytest.raises(ModelDoesNotFit):
            IsolatedSession(replace(order, known=found), first, 60, unwanted)
    assert not shared_memory()
