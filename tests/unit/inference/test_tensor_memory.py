"""Memory that tensors go through to a model's process and back: it follows what is sent."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from lepton_inference.adapters.isolated_session import IsolatedSession
from lepton_inference.adapters.tensor_memory import TensorMemory
from tests.inference_models import identity
from tests.unit.inference.test_isolated_session import Loader

LARGE = np.ones((1 << 20, 4), np.float32)  # 16 MiB
ENOUGH_USES = 65
"""After 64 small batches in a row the next one goes through memory of its own size."""


@pytest.fixture
def session(tmp_path: Path) -> Iterator[IsolatedSession]:
    """``y = x``, in a process of its own."""
    loader = Loader(tmp_path)
    yield loader(identity(onnx.TensorProto.FLOAT, ["batch", 4]))
    for each in loader.sessions:
        each.close()


def mapped(session: IsolatedSession) -> int:
    """Bytes of tensors' memory that the model's process has mapped."""
    (pid,) = session.pids
    total = 0
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if "memfd:model-inputs" in line or "memfd:model-outputs" in line:
            start, end = line.split()[0].split("-")
            total += int(end, 16) - int(start, 16)
    return total


def held() -> int:
    """Bytes of tensors' memory that this process holds."""
    total = 0
    for each in Path("/proc/self/fd").iterdir():
        try:
            if "memfd:model-" in str(each.readlink()):
                total += each.stat().st_size
        except OSError:  # the one that lists them
            continue
    return total


def run_small(session: IsolatedSession, count: int) -> None:
    for number in range(count):
        rows = np.full((1, 4), number, np.float32)
        (told,) = session.run({"x": rows})
        assert (told == rows).all()


def test_memory_of_a_large_batch_is_given_back(session: IsolatedSession) -> None:
    """By both ends, once a row of batches needed far less; the next large one has room again."""
    first, ours = mapped(session), held()
    for _ in range(2):
        (told,) = session.run({"x": LARGE})
        assert (told == LARGE).all()
        assert mapped(session) >= first + LARGE.nbytes
        run_small(session, ENOUGH_USES - 1)
        assert mapped(session) >= first + LARGE.nbytes
        run_small(session, 1)
        assert (mapped(session), held()) == (first, ours)


def test_memory_stays_while_large_batches_come(session: IsolatedSession) -> None:
    """Growing anew for each would cost more than it takes."""
    for _ in range(3):
        session.run({"x": LARGE})
        before = mapped(session)
        run_small(session, ENOUGH_USES // 2)
        assert mapped(session) == before


def test_memory_that_cannot_be_had_is_done_without(
    session: IsolatedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No batch fails because there is no descriptor left to give memory back with."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    session.run({"x": LARGE})
    before = mapped(session)
    with monkeypatch.context() as patch:
        patch.setattr(os, "memfd_create", refuse)
        run_small(session, ENOUGH_USES)
    assert mapped(session) == before
    run_small(session, 1)
    assert mapped(session) < before


def test_a_batch_that_does_not_fit_keeps_both_ends_together(
    session: IsolatedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process hears of its new memory with the next batch that does."""
    session.run({"x": LARGE})
    run_small(session, ENOUGH_USES - 1)

    def refuse(*_: Any) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(TensorMemory, "write", refuse)
        with pytest.raises(MemoryError):
            run_small(session, 1)
    run_small(session, 2)
