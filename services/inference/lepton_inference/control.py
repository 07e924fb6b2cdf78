"""What the process that starts Envoy and the Python inside of it tell each other.

One JSON object a line over a socket that only the two have. Down: ``address`` (where Envoy
listens), then ``stop``. Up: ``failed``, ``serving``, ``stopped``. Either end gone means stop.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

DESCRIPTOR = "LEPTONCONTROL_FD"
"""The environment variable that names the child's descriptor. No setting, so no LEPTON_."""


class Control:
    """One end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Control:
        """Takes ``end`` over."""
        return cls(*await asyncio.open_unix_connection(sock=end))

    async def send(self, kind: str, **fields: Any) -> None:
        """Sends one message; silently nothing if the other end is gone."""
        try:
            self._writer.write(json.dumps({"kind": kind, **fields}).encode() + b"\n")
            await self._writer.drain()
        except OSError:
            return

    async def receive(self) -> dict[str, Any]:
        """The next message; ``{"kind": "gone"}`` once the other end is."""
        try:
            line = await self._reader.readline()
        except OSError:
            line = b""
        return json.loads(line) if line else {"kind": "gone"}

    def close(self) -> None:
        self._writer.close()
