"""A benchmark that is stopped ends in a word, with 130, and ends what it has started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from bench import training_epochs, training_platform
from lepton.api.training.v1 import training_pb2 as pb

_PROGRAM = """
import asyncio, subprocess, sys, time
from bench import program

async def measure():
    child = subprocess.Popen(["sleep", "60"])
    try:
        print(child.pid, flush=True)
        while True:  # a round of load awaits nothing
            time.sleep(0.01)
    finally:
        await asyncio.sleep(0)
        child.kill()
        child.wait()

program.run(lambda: asyncio.run(measure()))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_is_stopped_ends_what_it_started(number: signal.Signals) -> None:
    """Within an event loop that it does not return to, too."""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM], stdout=pipe, stderr=pipe, text=True
    ) as running:
        assert running.stdout is not None
        child = int(running.stdout.readline())
        running.send_signal(number)
        _, told = running.communicate(timeout=30)
    assert (running.returncode, told) == (130, "bench: interrupted\n")
    assert not psutil.pid_exists(child)


_FAILING = """
from bench import program
from lepton_mesh.listening import PortInUse

def main():
    raise PortInUse("port 1 is in use")

program.run(main)
"""


def test_an_expected_failure_is_a_line_with_its_reason() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FAILING], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (1, "bench: port 1 is in use [PORT_IN_USE]\n")


def test_two_jobs_are_created_before_the_first_is_waited_for() -> None:
    """At once; one after the other, each is waited for before the next is created."""
    jobs = _Jobs()
    lepton: Any = SimpleNamespace(jobs=jobs)
    found = training_platform.two_jobs(lepton, {"recipe": "mlp"}, rounds=1)
    assert jobs.calls == [
        *("create 1", "create 2", "watch 1", "watch 2"),
        *("create 3", "watch 3", "create 4", "watch 4"),
    ]
    assert len(found["rounds"]) == 1


class _Jobs:
    """Jobs that succeed at once."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self._made = 0

    def create(self, _: object) -> pb.Job:
        self._made += 1
        self.calls.append(f"create {self._made}")
        return pb.Job(name=str(self._made))

    def watch(self, name: str) -> Iterator[pb.Job]:
        self.calls.append(f"watch {name}")
        return iter(())

    def get(self, name: str) -> pb.Job:
        return pb.Job(name=name, state=pb.Job.SUCCEEDED)


def test_every_program_is_run_so() -> None:
    """Those that others start, and end, are not."""
    started = {
        path.name: path.read_text().partition('if __name__ == "__main__":')[2]
        for path in Path(training_epochs.__file__).parent.glob("*.py")
    }
    bare = [name for name, text in started.items() if text and "program.run(" not in text]
    assert bare == ["bare_grpc_aio_server.py"]


def test_a_loop_does_not_hear_the_terminals_interrupt(tmp_path: Path) -> None:
    """It would print a traceback beside the program's word."""
    worker = training_epochs._start("recipe", tmp_path / "spec.yaml", tmp_path, 1.0)
    with worker:
        try:
            assert os.getsid(worker.pid) == worker.pid
        finally:
            worker.kill()
