"""Runs in the server's own process that nobody waits for any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lepton_inference.adapters import devices
from lepton_inference.adapters.onnx_session import OnnxSession, open_session, signature_of
from lepton_inference.adapters.run_watch import _LINGER_SECONDS
from lepton_inference.model_errors import RunUnwanted
from lepton_inference.placement import Placement
from tests import hostile_models as hostile


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[OnnxSession]:
    """``y = abs(x)``, without an end where a value of ``x`` is above 100."""
    path = tmp_path / "model.onnx"
    path.write_bytes(hostile.endless_above(100.0))
    # As `load` opens it, had it not a loop: one with a loop gets a process of its own.
    opened = open_session(path, [devices.CPU], 1)
    session = OnnxSession(opened, signature_of(opened), Placement(devices.CPU, 1, 0, 0))
    yield session
    session.close()


def _row(value: float) -> dict[str, np.ndarray]:
    return {"x": np.full((1, 4), value, np.float32)}


def test_a_run_that_nobody_waits_for_ends(endless: OnnxSession) -> None:
    """And the session runs the next."""
    gone = threading.Event()
    left: list[float] = []

    def leave() -> None:
        left.append(time.monotonic())
        gone.set()

    threading.Timer(0.3, leave).start()
    with pytest.raises(RunUnwanted):
        endless.run_while(_row(1000.0), lambda: not gone.is_set())
    assert left  # it ran until then
    (told,) = endless.run_while(_row(-3.0), lambda: True)
    assert told[0, 0] == 3.0


def test_a_run_that_somebody_waits_for_goes_on_while_another_is_ended(
    endless: OnnxSession,
) -> None:
    """Each by its own options."""
    gone = threading.Event()
    ended: list[type[BaseException]] = []

    def run() -> None:
        try:
            endless.run_while(_row(1000.0), lambda: not gone.is_set())
        except RunUnwanted as error:
            ended.append(type(error))

    other = threading.Thread(target=run)
    other.start()
    for _ in range(50):
        endless.run_while(_row(-1.0), lambda: True)
    gone.set()
    other.join(10)
    assert ended == [RunUnwanted]


def test_nothing_looks_while_nothing_runs(endless: OnnxSession) -> None:
    """The thread goes, and comes again with the next run."""
    endless.run_while(_row(-1.0), lambda: True)
    assert _watching()
    deadline = time.monotonic() + 10 * _LINGER_SECONDS
    while _watching() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _watching()
    endless.run_while(_row(-1.0), lambda: True)
    assert _watching()


def _watching() -> bool:
    return any(thread.name == "watch-runs" for thread in threading.enumerate())
