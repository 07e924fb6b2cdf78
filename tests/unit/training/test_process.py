"""Processes of jobs: one that cannot be bound to its processors does not run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from lepton_training import process


def test_a_process_is_bound_to_its_processors(tmp_path: Path) -> None:
    """From its start on."""
    core = min(os.sched_getaffinity(0))
    script = "import os, pathlib; pathlib.Path('has').write_text(str(os.sched_getaffinity(0)))"
    found = process.start([sys.executable, "-c", script], tmp_path, os.environ, [core])
    os.waitpid(found.pid, 0)
    assert (tmp_path / "has").read_text() == str({core})


def test_without_its_processors_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was started is ended: nobody would find it again."""
    bound = os.sched_setaffinity
    started = []

    def remember(pid: int, cores: list[int]) -> None:
        started.append(pid)
        bound(pid, cores)

    monkeypatch.setattr("lepton_training.process.os.sched_setaffinity", remember)
    with pytest.raises(process.CoresGone, match=r"processors \[9998\] are gone"):
        process.start(["/bin/sleep", "600"], tmp_path, os.environ, [9998])
    (pid,) = started
    assert not Path(f"/proc/{pid}").exists()
    assert process.recorded(tmp_path) is None
