"""Wakes those who wait for something to happen to a job."""

from __future__ import annotations

import asyncio
from collections import defaultdict


class Changes:
    """A job's key -> who waits for it; for one event loop."""

    def __init__(self) -> None:
        self._waiters: defaultdict[tuple[str, str], set[asyncio.Future[None]]] = defaultdict(set)

    def notify(self, workspace: str, job_id: str) -> None:
        """Wakes everyone who waits for this job now."""
        for waiter in self._waiters.pop((workspace, job_id), ()):
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self, workspace: str, job_id: str, seconds: float) -> None:
        """Returns at the next change, or after ``seconds``: another instance may have made one."""
        key = (workspace, job_id)
        waiter = asyncio.get_running_loop().create_future()
        self._waiters[key].add(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            pass
        finally:
            self._waiters[key].discard(waiter)
            if not self._waiters[key]:
                del self._waiters[key]
