"""The Envoy process: started, watched, started again, drained, and gone when we are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from lepton_gateway.config import GatewaySettings
from lepton_mesh.envoy_child import EnvoyAdmin, envoy_command
from lepton_mesh.errors import FailedPrecondition, Unavailable

log = logging.getLogger(__name__)

START_SECONDS = 20.0
_START_ATTEMPTS = 3
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_STABLE_SECONDS = 30.0
_LOG_BYTES = 64 << 20


class PortInUse(FailedPrecondition):
    reason = "PORT_IN_USE"


class EnvoyFailed(Unavailable):
    reason = "ENVOY_FAILED"


def check_port(settings: GatewaySettings) -> int:
    """The users' port, free at this moment (one that is chosen if the setting is 0).

    Envoy shares a port silently with another process of the same user that lets it
    (SO_REUSEPORT), so it is asked for here, without.

    Raises:
        PortInUse: Somebody listens there, or the address is not ours.
    """
    host, port = settings.gateway_host, settings.gateway_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            raise PortInUse(
                f"the gateway cannot listen on {host}:{port}: {error.strerror}; stop what uses the"
                f" port, or choose another with LEPTON_GATEWAY_PORT (address: LEPTON_GATEWAY_HOST)",
                port=port,
            ) from None
        return int(probe.getsockname()[1])


class Envoy:
    """One Envoy child.

    Args:
        config: The bootstrap file.
        admin_socket: Where the bootstrap puts the admin interface.
        log_file: Gets Envoy's own log, appended.
        access_log: Renamed to ``.1`` and begun anew when it is larger than 64 MiB.
        workers: Worker threads.
    """

    def __init__(
        self, config: Path, admin_socket: Path, log_file: Path, access_log: Path, workers: int
    ) -> None:
        self._config = config
        self._admin_socket = admin_socket
        self._admin = EnvoyAdmin(admin_socket)
        self._log_file = log_file
        self._access_log = access_log
        self._workers = workers
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._tell: Callable[[bool], None] = lambda _: None

    def on_change(self, tell: Callable[[bool], None]) -> None:
        """Has ``tell`` called with False when Envoy ended by itself, with True when it is back."""
        self._tell = tell

    @property
    def pid(self) -> int:
        """The child's process id; 0 while there is none."""
        return self._process.pid if self._process and self._process.returncode is None else 0

    async def start(self) -> None:
        """Returns when Envoy listens and has all of its configuration.

        Raises:
            EnvoyFailed: It ended, or did not get there in 20 s; the message has its last words.
        """
        for attempts_left in reversed(range(_START_ATTEMPTS)):
            await self._spawn()
            try:
                async with asyncio.timeout(START_SECONDS):
                    await self._until_live()
                break
            except (TimeoutError, EnvoyFailed) as error:
                await self._kill()
                words = self._last_words()
                # A configuration that it does not take is named, and no better at the next try.
                if words or not attempts_left:
                    raise EnvoyFailed(
                        f"Envoy did not start: {words or error}; see {self._log_file}"
                    ) from None
                log.warning("Envoy did not start (%s) and is started again", error)
        self._tasks = [
            asyncio.create_task(self._keep_running(), name="envoy"),
            asyncio.create_task(self._rotate_access_log(), name="access log"),
        ]

    async def drain(self, seconds: float) -> None:
        """Lets no new connection in, tells clients to go, and waits for their running calls."""
        if not self.pid:
            return
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(max(seconds, 0.1)):
                # The first says GOAWAY with the next answers, the second closes the port.
                await self._admin.post("/healthcheck/fail")
                await self._admin.post("/drain_listeners")
                while True:  # Envoy tells nobody when the last call ends
                    if not await self._active_requests():
                        return
                    await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Ends Envoy: SIGTERM, then SIGKILL after two seconds."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(2):
                await process.wait()
        except TimeoutError:
            await self._kill()

    async def _spawn(self) -> None:
        self._admin_socket.unlink(missing_ok=True)
        with self._log_file.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *envoy_command(
                    self._config,
                    *("--concurrency", str(self._workers)),
                    *("--log-level", "warning"),
                    *("--drain-time-s", "5"),
                ),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    async def _until_live(self) -> None:
        while True:
            if not self.pid:
                status = self._process.returncode if self._process else None
                raise EnvoyFailed(f"it ended at once, with status {status}")
            with contextlib.suppress(OSError):
                if "LIVE" in await self._admin.get("/ready"):
                    return
            await asyncio.sleep(0.02)

    async def _keep_running(self) -> None:
        pause = _FIRST_PAUSE_SECONDS
        loop = asyncio.get_running_loop()
        while True:
            assert self._process is not None  # noqa: S101  start() has set it
            began = loop.time()
            status = await self._process.wait()
            self._tell(False)
            if loop.time() - began > _STABLE_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            log.error(
                "Envoy ended with status %d and is started again: %s", status, self._last_words()
            )
            spawned = False
            while not spawned:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                try:
                    await self._spawn()
                    spawned = True
                except OSError as error:  # no memory, no descriptors, no room for the log
                    log.warning("Envoy cannot be started now, and is tried again: %s", error)
            while self.pid:
                try:
                    await self._until_live()
                    self._tell(True)
                    break
                except EnvoyFailed:  # it ended again, or its admin interface is not ready
                    await asyncio.sleep(0.02)

    async def _rotate_access_log(self) -> None:
        while True:
            await asyncio.sleep(10)
            with contextlib.suppress(OSError):
                if self._access_log.stat().st_size > _LOG_BYTES:
                    self._access_log.rename(self._access_log.with_suffix(".log.1"))
                    await self._admin.post("/reopen_logs")

    async def _active_requests(self) -> int:
        stats = await self._admin.get("/stats?filter=^http.gateway.downstream_rq_active$")
        found = re.search(r"downstream_rq_active: (\d+)", stats)
        return int(found[1]) if found else 0

    def _last_words(self) -> str:
        """The last line of Envoy's log that says what is wrong."""
        with contextlib.suppress(OSError):
            with self._log_file.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 16384))
                lines = file.read().decode(errors="replace").splitlines()
            for line in reversed(lines):
                if "[error]" in line or "[critical]" in line:
                    return line.split("] ")[-1].strip()
        return ""

    async def _kill(self) -> None:
        process = self._process
        if process is not None and process.returncode is None:
            process.send_signal(signal.SIGKILL)
            await process.wait()
