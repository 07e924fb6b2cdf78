"""Storage's own threads for file I/O and cryptography, off the event loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class IoThreads:
    """A pool that nothing else uses: a slow disk holds up reads and writes of bytes alone."""

    def __init__(self, count: int, name: str = "storage-io") -> None:
        self._executor = ThreadPoolExecutor(count, thread_name_prefix=name)

    def submit(
        self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        """Starts ``function`` in one of the threads; nobody has to wait for the answer."""
        call = functools.partial(function, *args, **kwargs)
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        future.add_done_callback(_look_at)
        return future

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Calls ``function`` in one of the threads.

        Once begun it runs to its end, even if the task that waits for it is cancelled.
        """
        return await self.submit(function, *args, **kwargs)

    async def finish(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """:meth:`run` for what has to happen even if the waiting task is cancelled."""
        return await asyncio.shield(self.submit(function, *args, **kwargs))

    def close(self) -> None:
        """Waits for what runs."""
        self._executor.shutdown()


def _look_at(future: asyncio.Future[T]) -> None:
    # A stream that broke leaves work behind that nobody asks about; asyncio would complain.
    if not future.cancelled():
        future.exception()
