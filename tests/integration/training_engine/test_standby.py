"""A process that is started before there is a job: the next job is its, and none is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton_training import process
from lepton_training.job import State
from lepton_training.process import ProcessId
from lepton_training.standby import Standby
from tests.integration.training_engine.conftest import Start

pytestmark = pytest.mark.integration

SAYS = """
import os, pathlib, sys, tempfile
from lepton_training.standby import wait_for_job
tempfile.gettempdir()  # whatever loads may have asked for it
if not wait_for_job():
    sys.exit(0)
print("said")
print("warned", file=sys.stderr, flush=True)
told = "\\n".join([os.environ["OF"], os.environ.get("ONLY_WAITING", "gone"), tempfile.gettempdir(),
                  str(os.sched_getaffinity(0)), repr(sys.stdin.read())])
pathlib.Path("told").write_text(told)
"""


@pytest.fixture
def standby() -> Iterator[Standby]:
    """Runs :data:`SAYS`."""
    ahead = Standby([sys.executable, "-c", SAYS], {**os.environ, "ONLY_WAITING": "there"})
    yield ahead
    ahead.close()


def children() -> set[int]:
    """Of this process, which may have some of other tests."""
    return set(process.descendants(os.getpid()))


def given(standby: Standby, directory: Path, **environment: str) -> ProcessId | None:
    """The process that got the job, once it has ended."""
    core = min(os.sched_getaffinity(0))
    found = standby.start(directory, {**os.environ, **environment}, [core])
    if found is not None:
        os.waitpid(found.pid, 0)
    return found


def test_the_job_is_told_to_the_process_that_waits(standby: Standby, tmp_path: Path) -> None:
    """It has the job's environment, directory, log and processors as if started for it."""
    standby.prepare()
    found = given(standby, tmp_path, OF="the job", TMPDIR=str(tmp_path))
    assert found is not None
    assert process.recorded(tmp_path) == found
    core = min(os.sched_getaffinity(0))
    told = (tmp_path / "told").read_text().splitlines()
    assert told == ["the job", "gone", str(tmp_path), str({core}), "''"]
    assert (tmp_path / "log.txt").read_text().splitlines() == ["said", "warned"]


def test_without_one_that_waits_there_is_none(standby: Standby, tmp_path: Path) -> None:
    """Neither before the first, nor twice the same, nor one that died."""
    assert given(standby, tmp_path) is None
    standby.prepare()
    standby.prepare()
    assert given(standby, tmp_path, OF="") is not None
    assert given(standby, tmp_path, OF="") is None

    others = children()
    standby.prepare()
    (pid,) = children() - others
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert given(standby, tmp_path, OF="") is None
    standby.close()
    standby.prepare()
    assert given(standby, tmp_path, OF="") is None


def test_it_ends_with_its_service(tmp_path: Path) -> None:
    """However that ends."""
    script = (
        "import os, pathlib, sys, time; from lepton_training.standby import Standby; "
        "from lepton_training.process import descendants; "
        f"Standby([sys.executable, '-c', {SAYS!r}], os.environ).prepare(); "
        "pathlib.Path('pid').write_text(str(*descendants(os.getpid()))); time.sleep(600)"
    )
    service = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    waited_until = time.monotonic() + 30
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < waited_until
        time.sleep(0.02)
    pid = int((tmp_path / "pid").read_text())
    service.kill()
    service.wait()
    while _runs(pid):
        assert time.monotonic() < waited_until
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


async def test_jobs_of_recipes_get_it(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is there some time after the service's start and each job's; the rest is as without."""
    monkeypatch.setattr("lepton_training.supervisor._STANDBY_SECONDS", 0.0)
    others = children()
    training = await start(standby=True)
    while not (waiting := children() - others):
        await asyncio.sleep(0.02)
    await training.create("first", hyperparameters={"epochs": 1})
    job = await training.ended("first")
    assert (job.state, job.failure_message) == (State.SUCCEEDED, "")
    assert {training.process_of("first").pid} == waiting
    assert not process.group_alive(training.process_of("first"))
    assert "agree within" in await training.log("first")
    await training.supervisor.close()
    assert children() <= others
