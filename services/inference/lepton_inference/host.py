"""The process that a supervisor starts: it obtains the identity and runs Envoy as its child.

Everything else happens inside of Envoy (:mod:`lepton_inference.envoy_app`). Where Envoy or a
shared libpython is missing the service runs in this process instead, behind grpc.aio.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lepton_inference.config import NAME, InferenceSettings
from lepton_inference.control import DESCRIPTOR, Control
from lepton_mesh import logs
from lepton_mesh.config import InvalidConfiguration
from lepton_mesh.errors import FailedPrecondition, LeptonError
from lepton_mesh.identity import obtain_identity

if TYPE_CHECKING:
    from lepton_inference.launcher import EnvoyProcess

log = logging.getLogger(__name__)

_STOP_SECONDS = 5.0
"""How long Envoy may take to end once nothing is left to do."""


class DataPlaneMissing(FailedPrecondition):
    reason = "DATA_PLANE_MISSING"


class ServiceEnded(FailedPrecondition):
    """The service inside of Envoy failed, or Envoy ended by itself."""

    reason = "SERVICE_ENDED"
    exit_status = 1


def run() -> None:
    """Runs the service; a start that fails prints one line and exits with 2 or 1."""
    try:
        settings = InferenceSettings.load(NAME)
    except InvalidConfiguration as error:
        _die(error.message, 2)
    logs.configure(NAME, settings.instance, level=settings.log_level, format=settings.log_format)
    missing = _missing()
    if settings.data_plane == "grpc" or (settings.data_plane == "auto" and missing):
        if missing:
            log.warning(
                "serving without Envoy, slower and without REST", extra={"because": missing}
            )
        _run_without_envoy()
        return
    try:
        if missing:
            raise DataPlaneMissing(f"{missing}, which LEPTON_DATA_PLANE=envoy needs")
        asyncio.run(_run(settings))
    except InvalidConfiguration as error:
        _die(error.message, 2)
    except ServiceEnded as error:
        _die(error.message, error.exit_status)
    except LeptonError as error:
        _die(error.message, 1)
    except OSError as error:
        _die(f"{error.strerror or error}: {error.filename or 'the system refused it'}", 1)


def _missing() -> str:
    """What Envoy with Python inside needs and this machine lacks; "" if nothing."""
    try:
        import envoy  # noqa: F401, PLC0415  where it is missing this must still run
        import find_libpython  # noqa: PLC0415  as above
        import pyvoy  # noqa: F401, PLC0415  as above
    except ImportError as error:
        return f"the package '{error.name}' is not installed"
    if find_libpython.find_libpython() is None:
        return "this Python has no shared libpython (build it with --enable-shared)"
    return ""


def _directory(state_dir: Path) -> Path:
    """Where Envoy's configuration and admin socket go: a place that a restart uses again."""
    directory = state_dir / "envoy"
    # A socket's path has 107 bytes at most (unix(7)), which a state directory may exceed.
    if len(os.fsencode(directory / "admin.sock")) <= 107:
        return directory
    return Path(tempfile.mkdtemp(prefix="lepton-oip-"))


def _run_without_envoy() -> None:
    from lepton_inference.bootstrap import build_with_grpc  # noqa: PLC0415  else the child's alone
    from lepton_mesh.process import run_service  # noqa: PLC0415  as above

    run_service(NAME, InferenceSettings, build_with_grpc)


async def _run(settings: InferenceSettings) -> None:
    from lepton_inference.envoy import DataPort, MutualTls  # noqa: PLC0415  see _missing
    from lepton_inference.launcher import EnvoyProcess  # noqa: PLC0415  as above

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # Writes the identity's files, which Envoy reads; the service inside keeps them fresh.
    identity = await obtain_identity(settings, NAME)
    await identity.close()
    folder = settings.identity_dir or settings.state_dir / "identity"
    directory = _directory(settings.state_dir)
    ours, theirs = socket.socketpair()
    port = DataPort(
        app="lepton_inference.envoy_app:app",
        host=settings.listen_host,
        port=settings.oip_port,
        directory=directory,
        tls=MutualTls(
            certificate=folder / "cert.pem",
            key=folder / "key.pem",
            trust_bundle=folder / "ca.pem",
            trust_domain=settings.trust_domain,
        ),
        max_connection_seconds=settings.max_connection_age_seconds,
    )
    environment = {
        **os.environ,
        "LEPTON_INSTANCE": settings.instance,
        DESCRIPTOR: str(theirs.fileno()),
    }
    try:
        envoy = EnvoyProcess.start(port, environment=environment, pass_fds=(theirs.fileno(),))
        theirs.close()
        control = await Control.over(ours)
        try:
            await _supervise(envoy, control, stop, settings)
        finally:
            control.close()
            await envoy.stop(_STOP_SECONDS)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def _supervise(
    envoy: EnvoyProcess, control: Control, stop: asyncio.Event, settings: InferenceSettings
) -> None:
    """Tells the service its port; returns once it was told to stop and has drained."""
    tasks: dict[str, asyncio.Task[Any]] = {
        "message": asyncio.create_task(control.receive()),
        "address": asyncio.create_task(envoy.address()),
        "stop": asyncio.create_task(stop.wait()),
        "end": asyncio.create_task(envoy.wait()),
    }
    try:
        while True:
            await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
            if tasks["message"].done():
                message = tasks["message"].result()
                if message["kind"] == "failed":
                    failure = ServiceEnded(message["message"])
                    failure.exit_status = message["status"]
                    raise failure
                if message["kind"] == "gone":
                    raise ServiceEnded("Envoy ended by itself; the log above may say why")
                tasks["message"] = asyncio.create_task(control.receive())
            elif tasks["stop"].done():
                await _drain(envoy, control, tasks["message"], settings)
                return
            elif tasks["end"].done():
                raise ServiceEnded(f"Envoy ended by itself with status {tasks['end'].result()}")
            elif "address" in tasks and tasks["address"].done():
                await control.send("address", address=tasks.pop("address").result())
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


async def _drain(
    envoy: EnvoyProcess,
    control: Control,
    message: asyncio.Task[dict[str, str]],
    settings: InferenceSettings,
) -> None:
    """Leaves discovery, finishes what runs, and only then lets go of the port."""
    await control.send("stop")
    await envoy.drain()
    # Twice the grace: calls to the management API first, requests to the data port then.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2 * settings.drain_grace_seconds + _STOP_SECONDS):
            while (await message)["kind"] not in ("stopped", "failed", "gone"):
                message = asyncio.create_task(control.receive())


def _die(message: str, status: int) -> NoReturn:
    sys.stderr.write(f"lepton {NAME}: {logs.redact(message)}\n")
    sys.exit(status)
