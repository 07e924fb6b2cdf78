"""A streaming request's body, of which is read ahead while one of its messages is answered.

Whether the client is still there shows only in what the server hands over next, so who waits
for a model must go on reading. What is read ahead is kept, and bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from lepton_inference.model import CallerGone

_AHEAD_BYTES = 1 << 20


class Incoming:
    """The chunks of one request; for one task."""

    def __init__(self, receive: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._receive = receive
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._reading: asyncio.Task[dict[str, Any]] | None = None
        self._ended = False
        self._gone = False

    async def chunk(self) -> bytes | None:
        """The next chunk, which may be empty; None after the last. Raises CallerGone."""
        while not self._kept:
            if self._gone:
                raise CallerGone
            if self._ended:
                return None
            reading, self._reading = self._reading, None
            self._keep(await (self._receive() if reading is None else reading))
        chunk = self._kept.popleft()
        self._kept_bytes -= len(chunk)
        return chunk

    async def gone(self) -> bool:
        """Whether the client is known to be gone; never waits for it."""
        while not self._gone and self._kept_bytes < _AHEAD_BYTES:
            if self._ended:
                # Asked for more than there is, a server says at once whether anybody is there.
                self._gone = (await self._receive())["type"] == "http.disconnect"
                break
            if self._reading is None:
                self._reading = asyncio.ensure_future(self._receive())
            if not self._reading.done():
                break
            reading, self._reading = self._reading, None
            self._keep(reading.result())
        return self._gone

    def close(self) -> None:
        """Reads no more."""
        if self._reading is not None:
            self._reading.cancel()

    def _keep(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.disconnect":
            self._gone = True
            return
        # A chunk may come without a body when the client is about to be found gone.
        chunk: bytes = message.get("body", b"")
        self._kept.append(chunk)
        self._kept_bytes += len(chunk)
        self._ended = not message.get("more_body", False)
