"""Envoy as a child process: started, asked for its port, drained, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Mapping
from typing import IO

from pyvoy._server import get_envoy_environ

from lepton_inference.envoy import LISTENER, DataPort, write_config
from lepton_mesh.envoy_child import EnvoyAdmin, envoy_command
from lepton_mesh.errors import FailedPrecondition


class DataPortFailed(FailedPrecondition):
    """Envoy, or Python in it, did not come up."""

    reason = "DATA_PORT_FAILED"


class EnvoyProcess:
    """One running Envoy."""

    def __init__(self, process: subprocess.Popen[bytes], port: DataPort) -> None:
        self._process = process
        self._port = port
        self._admin = EnvoyAdmin(port.admin_socket)
        self._ended: asyncio.Future[None] | None = None

    @classmethod
    def start(
        cls,
        port: DataPort,
        *,
        environment: Mapping[str, str],
        pass_fds: tuple[int, ...] = (),
        output: IO[bytes] | int | None = None,
        log_level: str = "error",
    ) -> EnvoyProcess:
        """Starts Envoy. Call it from the main thread: the child dies with the thread it is of.

        Args:
            port: What it serves.
            environment: The child's, to which what Python in Envoy needs is added.
            pass_fds: Descriptors that the child keeps.
            output: Where its stdout and stderr go; None for this process' own.
            log_level: Envoy's own.
        """
        port.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        port.admin_socket.unlink(missing_ok=True)
        config = write_config(port)
        process = subprocess.Popen(
            envoy_command(
                config,
                *("--log-level", log_level),
                # Once it drains, every answer says so, not a share that grows for ten minutes.
                *("--drain-strategy", "immediate"),
                # Enough for TLS and HTTP/2; the Python in it has one thread to give anyway.
                *("--concurrency", str(max(1, min(4, len(os.sched_getaffinity(0)) // 2)))),
            ),
            env={**environment, **get_envoy_environ()},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=pass_fds,
            # A terminal's Ctrl-C is for the parent, which drains before it stops the child.
            start_new_session=True,
        )
        return cls(process, port)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    async def address(self, seconds: float = 60.0) -> str:
        """``host:port`` of the data port, once it listens.

        Raises:
            DataPortFailed: The process ended, or did not listen in time.
        """
        try:
            async with asyncio.timeout(seconds):
                while self._process.poll() is None:
                    found = await self._listening()
                    if found is not None:
                        return found
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise DataPortFailed(
                f"Envoy did not listen within {seconds:g} s: Python in it is still starting, or "
                "hangs; the log above may say why",
                seconds=seconds,
            ) from None
        raise DataPortFailed(
            f"Envoy ended with status {self._process.returncode} before it listened; "
            "the log above says why",
            status=self._process.returncode,
        )

    async def wait(self) -> int:
        """The exit status, once the process ends by itself."""
        if self._ended is None:
            loop = asyncio.get_running_loop()
            done = self._ended = loop.create_future()
            watched = os.pidfd_open(self._process.pid)

            def ended() -> None:
                loop.remove_reader(watched)
                os.close(watched)
                done.set_result(None)

            loop.add_reader(watched, ended)
        await asyncio.shield(self._ended)
        return self._process.wait()

    async def drain(self) -> None:
        """Tells clients to go elsewhere (GOAWAY) as their requests end; new ones still work."""
        with contextlib.suppress(OSError):
            await self._admin.post("/drain_listeners?graceful&skip_exit")

    async def stop(self, grace: float) -> None:
        """Ends the process: asked first, killed after ``grace`` seconds."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.wait(), grace)
            except TimeoutError:
                self._process.kill()
        await asyncio.to_thread(self._process.wait)
        self._port.admin_socket.unlink(missing_ok=True)

    async def _listening(self) -> str | None:
        try:
            body = await self._admin.get("/listeners?format=json")
        except OSError:
            return None  # it is not there yet
        for status in json.loads(body).get("listener_statuses", []):
            if status["name"] == LISTENER:
                address = status["local_address"]["socket_address"]
                if address["port_value"]:
                    return f"{address['address']}:{address['port_value']}"
        return None
