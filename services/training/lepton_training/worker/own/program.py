"""Runs a user's code as a process below this one, and leaves nothing of it running.

This process becomes the reaper of all its descendants (PR_SET_CHILD_SUBREAPER, prctl(2)): one
that leaves its session or loses its parent is still found below it, and ended.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lepton_mesh.errors import LeptonError
from lepton_training.failure import ToldFailure
from lepton_training.process import descendants
from lepton_training.worker.own.errors import CodeExited, CodeKilled, CodeProcesses, MetricsInvalid

log = logging.getLogger(__name__)

_PR_SET_CHILD_SUBREAPER = 36
_LOOK_SECONDS = 0.2
"""How often its processes are counted."""
_LAST_SECONDS = 5.0
"""How long it may go on after its last word."""
_SETTLE_SECONDS = 0.5
"""When a signal ended it, this process may be about to get one too."""
_PIECE = 1 << 16
_LINE_MAX = 1 << 18
_MESSAGE_MAX = 2000
_LOG_BYTES = 8 << 20
"""Of its output that is kept from the beginning; of more, only the end is."""
_LOG_END_BYTES = 1 << 14

Take = Callable[[Mapping[str, Any]], None]
"""Takes what the code reports; raises a LeptonError that ends it."""


class Stopping(Exception):
    """This process was told to stop, and the code's with it."""


class Program:
    """One run of a command; its last word is a message ``finished`` or ``failed``."""

    def __init__(self, take: Take, *, processes_max: int, reasons: frozenset[str]) -> None:
        """
        Args:
            take: Called with every message but the last.
            processes_max: How many it may have at a time, itself included.
            reasons: What it may say that it failed with; CODE_FAILED stands for all else.
        """
        self._take = take
        self._processes_max = processes_max
        self._reasons = reasons
        self._output = _Output()
        self._rest = b""
        self._finished = False
        self._failure: Exception | None = None
        self._deadline: float | None = None
        self._stopping = threading.Event()

    def run(self, command: Sequence[str], directory: Path, environment: Mapping[str, str]) -> None:
        """Runs ``command`` with the number of the descriptor for its messages as last argument.

        Raises:
            ToldFailure: What it said that it failed with.
            LeptonError: What it was ended for, or that it ended without its last word.
            Stopping: This process got SIGTERM, which was passed on to it.
        """
        # Not inherited but by name, so the pipes end when its last process has.
        outputs, out = os.pipe()
        messages, told = os.pipe()
        try:
            process = subprocess.Popen(
                [*command, str(told)],
                cwd=directory,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                pass_fds=(told,),
                process_group=0,  # signals that it sends to its own group do not reach this one
            )
        finally:
            os.close(out)
            os.close(told)
        earlier = signal.signal(signal.SIGTERM, lambda *_: self._stop(process))
        try:
            try:
                self._follow(process, outputs, messages)
            finally:  # whatever happened, nothing of it runs on
                left = self._end(process)
            self._drain(outputs, messages)
            if process.returncode < 0 and not self._finished and self._failure is None:
                self._stopping.wait(_SETTLE_SECONDS)
        finally:
            signal.signal(signal.SIGTERM, earlier)
            self._output.close()
            os.close(outputs)
            os.close(messages)
        if left:
            log.info("ended %d processes that the code left behind", left)
        if self._stopping.is_set():
            raise Stopping
        self._judge(process.returncode)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        self._stopping.set()
        with suppress(ProcessLookupError):
            process.terminate()

    def _follow(self, process: subprocess.Popen[bytes], outputs: int, messages: int) -> None:
        """Returns when it has ended, or is to be ended."""
        exit_descriptor = os.pidfd_open(process.pid)
        try:
            with selectors.DefaultSelector() as selector:
                for descriptor in (outputs, messages):
                    os.set_blocking(descriptor, False)
                    selector.register(descriptor, selectors.EVENT_READ)
                selector.register(exit_descriptor, selectors.EVENT_READ)
                looked = 0.0
                while self._deadline is None or time.monotonic() < self._deadline:
                    for key, _ in selector.select(_LOOK_SECONDS):
                        if key.fd == exit_descriptor:
                            return
                        if not self._read(key.fd, messages):
                            selector.unregister(key.fd)
                    if time.monotonic() - looked >= _LOOK_SECONDS:
                        looked = time.monotonic()
                        if not self._few_processes():
                            return
        finally:
            os.close(exit_descriptor)

    def _few_processes(self) -> bool:
        count = len(descendants(os.getpid()))
        if count > self._processes_max and self._failure is None:
            self._failure = CodeProcesses(
                f"the code has {count} processes at a time, and may have {self._processes_max}; "
                "raise code.processes, or start fewer (a DataLoader's num_workers are some)"
            )
        return count <= self._processes_max

    def _read(self, descriptor: int, messages: int) -> bool:
        """Takes what is there; False at the end."""
        try:
            piece = os.read(descriptor, _PIECE)
        except BlockingIOError:
            return True
        if descriptor == messages:
            self._rest += piece
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                self._hear(line)
            if len(self._rest) > _LINE_MAX:
                self._give_up(MetricsInvalid("the code reported more than 256 KiB at once"))
                self._rest = b""
        else:
            self._output.write(piece)
        return bool(piece)

    def _hear(self, line: bytes) -> None:
        if self._failure is not None:
            return
        try:
            message = json.loads(line)
            kind = message["kind"]
            reason, text = str(message.get("reason")), str(message.get("message"))
        except (ValueError, TypeError, KeyError, RecursionError):
            self._give_up(MetricsInvalid("the code reported what is no message of Lepton's"))
            return
        if kind == "finished":
            self._finished = True
            self._deadline = time.monotonic() + _LAST_SECONDS
        elif kind == "failed":
            reason = reason if reason in self._reasons else "CODE_FAILED"
            self._give_up(ToldFailure(reason, text[:_MESSAGE_MAX]))
        else:
            try:
                self._take(message)
            except RecursionError:  # what it told of is nested too deeply to be shown
                self._give_up(MetricsInvalid("the code reported what is no measurement"))
            except LeptonError as error:
                self._give_up(error)

    def _give_up(self, failure: Exception) -> None:
        """Leaves it the time for its traceback."""
        self._failure = failure
        self._deadline = time.monotonic() + _LAST_SECONDS

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        """Ends it with all that it started; returns how many it had left behind itself."""
        left = [pid for pid in descendants(os.getpid()) if pid != process.pid]
        if self._stopping.is_set():
            left = []
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()
        end_descendants()
        return len(left)

    def _drain(self, outputs: int, messages: int) -> None:
        for descriptor in (outputs, messages):
            with suppress(BlockingIOError):
                while piece := os.read(descriptor, _PIECE):
                    if descriptor == outputs:
                        self._output.write(piece)
                    else:
                        self._rest += piece
        for line in self._rest.split(b"\n"):
            if line:
                self._hear(line)

    def _judge(self, status: int) -> None:
        if self._failure is not None:
            raise self._failure
        if self._finished:
            return
        if status < 0:
            number = signal.Signals(-status)
            hint = "; often the machine was out of memory" if number is signal.SIGKILL else ""
            raise CodeKilled(f"the code's process was ended by {number.name}{hint}")
        raise CodeExited(f"the code's process ended with status {status} before it was done")


class _Output:
    """Copies the code's output to this process's log, each line with its time, bounded."""

    def __init__(self) -> None:
        self._room = _LOG_BYTES
        self._end = b""
        self._left_out = 0
        self._begins = True

    def write(self, piece: bytes) -> None:
        head, rest = piece[: self._room], piece[self._room :]
        if head:
            self._room -= len(head)
            self._copy(head)
        if rest:
            if not self._left_out and not self._end:
                self._note(
                    "more output follows than is kept; its end comes when the code has ended"
                )
            self._end += rest
            if len(self._end) > 4 * _LOG_END_BYTES:
                self._cut()

    def close(self) -> None:
        """Writes what is kept of the end."""
        self._cut()
        if self._left_out:
            self._note(f"{self._left_out} bytes of output are left out here")
        if self._end:
            self._copy(self._end)
        if not self._begins:
            _write_log(b"\n")
        self._end, self._begins = b"", True

    def _cut(self) -> None:
        self._left_out += max(0, len(self._end) - _LOG_END_BYTES)
        self._end = self._end[-_LOG_END_BYTES:]

    def _note(self, text: str) -> None:
        if not self._begins:
            _write_log(b"\n")
        self._begins = True
        log.info("%s", text)

    def _copy(self, piece: bytes) -> None:
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").encode() + b" "
        ends = piece.endswith(b"\n")
        body = (piece[:-1] if ends else piece).replace(b"\n", b"\n" + stamp)
        _write_log((stamp if self._begins else b"") + body + (b"\n" if ends else b""))
        self._begins = ends


def _write_log(content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(2, view) :]


def become_subreaper() -> None:
    """Makes this process the parent of every descendant that loses its own."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def end_descendants() -> None:
    """Ends and reaps every process below this one. Nothing else may wait for any of them."""
    while pids := descendants(os.getpid()):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)  # the kernel takes a moment to end them
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
