"""A job's process that is started before there is a job: it has loaded what jobs need.

A new interpreter needs five seconds of CPU time to load PyTorch and what an export takes, while
somebody waits. The process that stands by has no credentials: all that it knows is told to it
with its job, in one line of JSON on its standard input (:func:`wait_for_job`).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO

from lepton_training import process
from lepton_training.events import LOG_FILE
from lepton_training.process import ProcessId

log = logging.getLogger(__name__)

WAIT = "--wait"
"""The argument with which a job's process stands by."""


class Standby:
    """One process at most, that waits for a job of a recipe."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """
        Args:
            command: What it runs; it calls :func:`wait_for_job`.
            environment: Until it has a job, whose own takes its place then.
        """
        self._command = command
        self._environment = environment
        self._waiting: tuple[ProcessId, IO[bytes]] | None = None
        """It, and its standard input."""
        self._closed = False
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Starts a process where none waits."""
        with self._lock:
            if self._closed or self._alive() is not None:
                return
            try:
                found, stdin = process.launch(
                    self._command,
                    self._environment,
                    stdin=subprocess.PIPE,
                    output=subprocess.DEVNULL,
                )
            except OSError:  # jobs start without
                log.warning("no process can be started ahead of its job", exc_info=True)
                return
            assert stdin is not None  # noqa: S101 - it is a pipe
            self._waiting = found, stdin

    def start(
        self, directory: Path, environment: Mapping[str, str], core_ids: Collection[int] = ()
    ) -> ProcessId | None:
        """Gives the job in ``directory`` to the process that waits, which then is as one that
        :func:`process.start` started; None where none waits.

        Raises as that does.
        """
        with self._lock:
            waiting, self._waiting = self._alive(), None
        if waiting is None:
            return None
        found, stdin = waiting
        with stdin:
            process.keep(found, directory, core_ids)
            order = {"directory": str(directory), "environment": dict(environment)}
            stdin.write(json.dumps(order).encode() + b"\n")
        return found

    def close(self) -> None:
        """Ends the process that waits; none is started any more."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            found, stdin = waiting
            stdin.close()
            process.signal_group(found, signal.SIGKILL)
            os.waitpid(found.pid, 0)

    def _alive(self) -> tuple[ProcessId, IO[bytes]] | None:
        if self._waiting is not None:
            found, stdin = self._waiting
            if process.reap(found) is not None:
                log.warning("the process that stood by has ended")
                stdin.close()
                self._waiting = None
        return self._waiting


def wait_for_job() -> bool:
    """Waits in the process that stands by until it has a job, and becomes that job's.

    Returns whether it has one: it does not when the service that started it is gone.
    """
    line = sys.stdin.buffer.readline()
    if not line:
        return False
    order = json.loads(line)
    mark = os.environ[process.MARK]
    os.environ.clear()
    os.environ.update({**order["environment"], process.MARK: mark})
    tempfile.tempdir = None  # of the environment before, where something asked for it already
    os.chdir(order["directory"])
    with Path(LOG_FILE).open("ab") as log_file, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log_file.fileno(), 1)
        os.dup2(log_file.fileno(), 2)
    return True
