"""The Envoy process: started, watched, started again, drained, and gone when we are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

from lepton_gateway.config import GatewaySettings
from lepton_mesh import listening, log_files
from lepton_mesh.envoy_child import EnvoyAdmin, envoy_command
from lepton_mesh.errors import Unavailable

log = logging.getLogger(__name__)

START_SECONDS = 20.0
_START_ATTEMPTS = 3
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_STABLE_SECONDS = 30.0
_LOG_BYTES = 64 << 20
_LOG_LOOK_SECONDS = 10.0


class EnvoyFailed(Unavailable):
    reason = "ENVOY_FAILED"


def check_port(settings: GatewaySettings) -> int:
    """The users' port, free at this moment (one that is chosen if the setting is 0).

    Raises:
        PortInUse: Somebody listens there, or the address is not ours.
    """
    with listening.bound(
        settings.gateway_host,
        settings.gateway_port,
        other_host="LEPTON_GATEWAY_HOST",
        other_port="LEPTON_GATEWAY_PORT",
    ) as probe:
        return int(probe.getsockname()[1])


class Envoy:
    """One Envoy child.

    Args:
        config: The bootstrap file.
        admin_socket: Where the bootstrap puts the admin interface.
        log_file: Gets Envoy's own log, appended.
        access_log: Gets a line for each request. Either log is begun anew when it is larger than
            64 MiB; what it held goes to ``<name>.log.1``.
        workers: Worker threads.
    """

    def __init__(
        self, config: Path, admin_socket: Path, log_file: Path, access_log: Path, workers: int
    ) -> None:
        self._config = config
        self._admin_socket = admin_socket
        self._admin = EnvoyAdmin(admin_socket)
        self._log_file = log_file
        self._log_begin = 0
        """Where in the log the words of the present process begin; bytes."""
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
                await self._come_up()
                break
            except EnvoyFailed as error:
                words = self._last_words()
                # A configuration that it does not take is named, and no better at the next try.
                if words or not attempts_left:
                    raise EnvoyFailed(
                        f"Envoy did not start: {words or error}; see {self._log_file}"
                    ) from None
                log.warning("Envoy did not start, next try", extra={"error": str(error)})
        self._tasks = [
            asyncio.create_task(self._keep_running(), name="envoy"),
            asyncio.create_task(self._keep_logs_small(), name="envoy's logs"),
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
            self._log_begin = output.tell()
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

    async def _come_up(self) -> None:
        """Returns when Envoy is live; raises EnvoyFailed, after which there is none."""
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._until_live()
        except TimeoutError:
            await self._kill()
            raise EnvoyFailed(f"it was not ready within {START_SECONDS:g} s") from None

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
                "Envoy ended, started again",
                extra={"status": status, "last_words": self._last_words()},
            )
            spawned = False
            while not spawned:
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                try:
                    await self._spawn()
                    spawned = True
                except OSError as error:  # no memory, no descriptors, no room for the log
                    log.warning("Envoy cannot be started now", extra={"error": str(error)})
            try:
                await self._come_up()
            except EnvoyFailed as error:  # it has ended: it is started again as any other
                log.warning("Envoy did not come up", extra={"error": str(error)})
            else:
                self._tell(True)

    async def _keep_logs_small(self) -> None:
        reopen = False
        while True:
            await asyncio.sleep(_LOG_LOOK_SECONDS)
            try:
                if self._access_log.exists() and self._access_log.stat().st_size > _LOG_BYTES:
                    self._access_log.rename(log_files.earlier(self._access_log))
                    reopen = True
                if reopen:
                    # Until it is told, Envoy writes on to the file that was renamed.
                    await self._admin.post("/reopen_logs")
                    reopen = False
                await asyncio.to_thread(log_files.keep_smaller, self._log_file, _LOG_BYTES)
            except OSError as error:
                log.warning("log not begun anew", extra={"error": str(error)})

    async def _active_requests(self) -> int:
        stats = await self._admin.get("/stats?filter=^http.gateway.downstream_rq_active$")
        found = re.search(r"downstream_rq_active: (\d+)", stats)
        return int(found[1]) if found else 0

    def _last_words(self) -> str:
        """The last line in Envoy's log of the present process that says what is wrong."""
        with contextlib.suppress(OSError):
            with self._log_file.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                # A log that was begun anew since then is shorter, and all of this process.
                begin = self._log_begin if self._log_begin <= end else 0
                file.seek(max(begin, end - 16384))
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
