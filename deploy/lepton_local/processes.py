"""Processes of a stack: started, told apart from all others, restarted, ended.

Every process that a stack starts carries the stack's home in its environment, and
so do the processes that those start. What carries it belongs to the stack, whoever
its parent is by now: that is how nothing is left behind, and nothing else is touched.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from lepton_local import log_files
from lepton_local.home import Home, ProcessRecord

MARK = "_LEPTON_STACK"
"""Environment variable with the home of the stack that a process belongs to."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run."""

    name: str
    argv: Sequence[str]
    environ: Mapping[str, str]
    log: Path


def base_environ(home: Home) -> dict[str, str]:
    """This environment without Lepton's own settings, with the mark of ``home``."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("LEPTON_")}
    return {**environ, MARK: str(home.path), "PYTHONUNBUFFERED": "1"}


def start(program: Program, cwd: Path) -> subprocess.Popen[bytes]:
    """Starts a program in a session of its own; its output is appended to its log.

    Raises:
        OSError: The program or its log cannot be opened.
    """
    log_files.keep_small(program.log)
    with program.log.open("ab") as log:
        return subprocess.Popen(
            list(program.argv),
            env=dict(program.environ),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def record_of(pid: int, restarts: int = 0) -> ProcessRecord:
    """The record of a running process."""
    return ProcessRecord(pid, psutil.Process(pid).create_time(), restarts)


def alive(record: ProcessRecord) -> bool:
    """Whether this very process still runs."""
    try:
        process = psutil.Process(record.pid)
        return (
            abs(process.create_time() - record.started) < 1.0
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.NoSuchProcess:
        return False


def belonging_to(home: Home) -> list[psutil.Process]:
    """Every process that this stack started, but for the caller and its parents."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid not in own and process.environ().get(MARK) == str(home.path):
                found.append(process)
        except (psutil.Error, OSError):
            continue  # gone meanwhile, or somebody else's
    return found


def running(home: Home, module: str) -> list[psutil.Process]:
    """Those of the stack's processes that run a Python module (``python -m module``)."""
    found = []
    for process in belonging_to(home):
        try:
            if module in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue  # gone meanwhile
    return found


def end(processes: Sequence[psutil.Process], grace_seconds: float) -> None:
    """Ends processes: SIGTERM, and SIGKILL for those that are still there after the grace."""
    for number, grace in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 5.0)):
        for process in processes:
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        _, processes = psutil.wait_procs(processes, timeout=grace)
        if not processes:
            return


async def stop(child: subprocess.Popen[bytes], grace_seconds: float) -> None:
    """Ends one child of ours and collects it."""
    if child.poll() is None:
        child.terminate()
        deadline = time.monotonic() + grace_seconds
        while child.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110  # Popen has no event
            await asyncio.sleep(0.02)
        if child.poll() is None:
            child.kill()
    await asyncio.to_thread(child.wait)


@contextmanager
def handled(number: signal.Signals, handler: Any) -> Iterator[None]:
    """Has a signal handled otherwise within the block; for the main thread."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
