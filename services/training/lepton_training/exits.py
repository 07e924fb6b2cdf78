"""How a job's process comes to its end: asked, killed, waited for, told in words."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from lepton_training import process
from lepton_training.process import ProcessId


class Stop:
    """SIGTERM to a process's whole session, and SIGKILL after the grace."""

    def __init__(self, found: ProcessId, grace: float) -> None:
        self._found = found
        self._grace = grace
        self._asked = 0.0

    def advance(self) -> None:
        """Does what is due; called again and again until the process is gone."""
        if not self._asked:
            self._asked = time.monotonic()
            process.signal_group(self._found, signal.SIGTERM)
        elif time.monotonic() - self._asked > self._grace:
            process.signal_group(self._found, signal.SIGKILL)


@contextmanager
def watch_exit(found: ProcessId) -> Iterator[asyncio.Event]:
    """An event that is set once the process has ended, our child or one from an earlier life."""
    exited = asyncio.Event()
    loop = asyncio.get_running_loop()
    try:
        descriptor = os.pidfd_open(found.pid)
    except ProcessLookupError:
        exited.set()
        yield exited
        return
    try:
        if process.is_alive(found):
            loop.add_reader(descriptor, exited.set)
        else:  # the id is free by now, or another's
            exited.set()
        yield exited
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def wait_any(event: asyncio.Event, seconds: float) -> None:
    """Returns when the event is set, or after ``seconds``."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def describe(status: int) -> str:
    """An exit status, negative for a signal."""
    if status >= 0:
        return f"status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
