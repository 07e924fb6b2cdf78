"""A benchmark that is stopped ends in a word, with 130, and ends what it has started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bench import training_epochs

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
