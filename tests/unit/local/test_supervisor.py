"""What the supervisor of a local stack does when things go wrong."""

from __future__ import annotations

import asyncio
import errno
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton_local import log_files, processes
from lepton_local import supervisor as module
from lepton_local.home import Home
from lepton_local.listener import Listener
from lepton_local.processes import Program, base_environ
from lepton_local.supervisor import Supervisor
from lepton_mesh.log_files import earlier


class _Authority:
    """Fails the first time that it is asked for certificates."""

    def __init__(self) -> None:
        self.asked = 0

    async def issue_own(self) -> None:
        self.asked += 1
        if self.asked == 1:
            raise RuntimeError("database is locked")


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """A supervisor whose services are processes that end at once, and that looks often."""
    home = Home(tmp_path / "home")
    home.create()
    supervised = Supervisor(home, Listener("127.0.0.1", 0))
    for name in ("_LOOK_SECONDS", "_FAILED_LOOK_SECONDS", "_FIRST_PAUSE_SECONDS"):
        monkeypatch.setattr(module, name, 0.01)

    async def spawn(service: str) -> None:
        argv = [sys.executable, "-c", "import sys; sys.exit(3)"]
        program = Program(service, argv, base_environ(home), home.log(service))
        supervised._spawn(program, tmp_path)

    monkeypatch.setattr(supervised, "_spawn_service", spawn)
    return supervised


async def test_a_service_that_keeps_ending_does_not_hold_up_the_others(stack: Supervisor) -> None:
    """One waits for its restart far away; the other is started again meanwhile."""
    await stack._spawn_service("storage")
    await stack._spawn_service("registry")
    stack._children["storage"].pause = 1000.0
    first = stack._children["registry"].process
    for child in stack._children.values():
        child.process.wait(10)
    deadline = time.monotonic() + 10
    while stack._children["registry"].process is first and time.monotonic() < deadline:
        await stack._restart_ended()
    assert stack._record.processes["registry"].restarts == 1
    assert stack._record.processes["storage"].restarts == 0


async def test_a_passing_failure_does_not_end_the_stack(
    stack: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Certificates that could not be renewed are renewed at the next try."""
    authority = _Authority()
    monkeypatch.setattr(stack, "_authority", authority, raising=False)
    monkeypatch.setattr(module, "_RENEW_SECONDS", -1.0)

    class Enough:
        """Stands in for the wait between looks: ends after the second success."""

        def is_set(self) -> bool:
            return authority.asked >= 3

        async def wait(self) -> None:
            raise TimeoutError

    monkeypatch.setattr(stack, "_stopping", Enough())
    await stack._supervise()
    assert authority.asked >= 3


async def test_a_log_that_grows_is_begun_anew(
    stack: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its process writes to it, and without a restart."""
    monkeypatch.setattr(module, "_TRIM_SECONDS", -1.0)
    monkeypatch.setattr(log_files, "MAX_BYTES", 10)
    grown = stack._home.log("etcd")
    grown.write_text("more than ten bytes\n")

    class Once:
        def is_set(self) -> bool:
            return earlier(grown).exists()

        async def wait(self) -> None:
            raise TimeoutError

    monkeypatch.setattr(stack, "_stopping", Once())
    async with asyncio.timeout(10):
        await stack._supervise()
    assert grown.read_text() == ""
    assert earlier(grown).read_text() == "more than ten bytes\n"


@pytest.fixture
def endless(stack: Supervisor) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the stack's that does not end by itself."""
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(command, env=base_environ(stack._home)) as process:
        yield process
        process.kill()


async def test_a_full_disk_does_not_keep_the_stack_from_ending(
    stack: Supervisor, endless: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record cannot be written any more, and still nothing is left running."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def start() -> None:
        monkeypatch.setattr(Home, "write", full)
        stack._step("starting etcd")

    monkeypatch.setattr(stack, "_start", start)
    assert not await stack.run()
    assert endless.poll() is not None
    assert "No space left" in stack._record.error


async def test_the_rest_is_ended_although_a_process_cannot_be_stopped(
    stack: Supervisor, endless: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    await stack._spawn_service("storage")
    monkeypatch.setattr(processes, "stop", fail)
    with pytest.raises(PermissionError):
        await stack._end()
    assert endless.poll() is not None


async def test_a_process_that_is_restarted_on_a_full_disk_keeps_its_pause(
    stack: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that keeps ending would be started twice a second otherwise."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    await stack._spawn_service("storage")
    child = stack._children["storage"]
    child.pause = 8.0
    monkeypatch.setattr(Home, "write", full)
    await stack._restart("storage", child)
    assert stack._children["storage"].pause == 16.0


def test_a_failed_prediction_ends_the_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A callback with an error is raised, whatever number of requests is in flight."""
    # In a process of its own: what hangs is ended by the time limit, not by the suite's.
    done = subprocess.run(
        [sys.executable, "-c", _FAILING_DEMO],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "PREDICTION_FAILED" in done.stdout, done.stderr


_FAILING_DEMO = """
import types
from pathlib import Path
import numpy as np
from lepton_local import gateway

tensor = types.SimpleNamespace(name="images", datatype="UINT8")

class Client:
    def __init__(self, *arguments, **options): pass
    def get_model_metadata(self, *arguments, **options):
        return types.SimpleNamespace(inputs=[tensor], outputs=[tensor])
    def async_infer(self, *arguments, callback, **options):
        callback(None, Exception("no"))
    def close(self): pass

gateway.triton.InferenceServerClient = Client
try:
    gateway.ask_grpc(
        gateway.Asked("localhost:1", Path("ca.pem"), "", "digits"),
        {"images": np.zeros((100, 8, 8), np.uint8)},
        lambda done: None,
    )
except gateway.PredictionFailed as error:
    print(error.reason)
"""
