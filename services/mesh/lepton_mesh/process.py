"""The life of a service process: settings, identity, mesh, servers, registration, drain.

A service's ``__main__`` is one call::

    def main() -> None:
        run_service("storage", StorageSettings, bootstrap.build)

and its ``bootstrap.build`` wires the adapters::

    async def build(runtime: MeshRuntime, settings: StorageSettings) -> Service:
        engine = ...
        return Service(
            servicers=[
                Served(
                    add_DatasetServiceServicer_to_server,
                    DatasetServicer(...),
                    storage_pb2.DESCRIPTOR.services_by_name["DatasetService"],
                )
            ],
            table=TABLE,
            close=engine.close,
        )
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import TYPE_CHECKING, TypeVar

import uvloop

from lepton_mesh import logs
from lepton_mesh.authorization import AuthorizationTable
from lepton_mesh.config import InvalidConfiguration, MeshSettings
from lepton_mesh.discovery import Instance, Registration
from lepton_mesh.disk import keep_ballast
from lepton_mesh.errors import LeptonError
from lepton_mesh.health import Health
from lepton_mesh.identity import Renewer
from lepton_mesh.interceptors.server import server_interceptors
from lepton_mesh.runtime import AUTH_READS, FetchRevoked, MeshRuntime, revoked_certificates
from lepton_mesh.server import MeshServer, Served
from lepton_mesh.tls import open_server_credentials, server_credentials
from lepton_mesh.tokens import FetchKeys, auth_keys

if TYPE_CHECKING:
    import grpc

__all__ = ["Listener", "Served", "Service", "run_service", "serve"]

log = logging.getLogger(__name__)

DENYLIST_SECONDS = 2.0
"""How long a start waits for the list of revoked certificates; then it goes on with the last."""

SettingsT = TypeVar("SettingsT", bound=MeshSettings)


async def _nothing() -> None:
    """The default of the hooks below."""


@dataclass(frozen=True)
class Listener:
    """A second gRPC port that asks for no client certificate, as auth's join listener.

    Its callers are anonymous, so only what its table makes public answers: there is no health
    check and no reflection, and messages are small.
    """

    name: str
    """The port's name in the instance record, as ``join``."""
    servicers: Sequence[Served]
    table: AuthorizationTable
    port: int = 0


@dataclass(frozen=True)
class Service:
    """What a service's ``build`` hands to the process that serves it."""

    servicers: Sequence[Served]
    table: AuthorizationTable
    """Names every RPC of ``servicers``; the process refuses to start otherwise."""
    start: Callable[[], Awaitable[None]] = _nothing
    """Called once the port listens and before the instance is registered."""
    close: Callable[[], Awaitable[None]] = _nothing
    """Called after the last call has ended; the mesh is still up."""
    ports: Mapping[str, str] = field(default_factory=dict)
    """Further ``name -> host:port`` of the instance record, such as ``oip``."""
    capacity: int = 1
    """Relative size of this instance, told in its record; the balancer goes by latency and load."""
    max_concurrent_rpcs: int = 1024
    """Calls beyond this answer RESOURCE_EXHAUSTED."""
    take_health: Callable[[Health], None] | None = None
    """Gets the main port's health before ``start``: for what may be up and unable to answer."""
    listeners: Sequence[Listener] = ()
    fetch_keys: FetchKeys | None = None
    """Where token keys come from instead of the auth service: auth itself."""
    fetch_revoked: FetchRevoked | None = None
    """Where revoked serial numbers come from instead of the auth service: auth itself."""


Build = Callable[[MeshRuntime, SettingsT], Awaitable[Service]]
Authority = Callable[[SettingsT], Awaitable[Renewer]]
"""Opens what issues this process' own certificates: the auth service's CA."""


def run_service(
    name: str,
    settings_class: type[SettingsT],
    build: Build[SettingsT],
    *,
    authority: Authority[SettingsT] | None = None,
) -> None:
    """Runs a service until SIGTERM or SIGINT, then drains.

    ``authority`` is for the auth service, which issues its own certificates.
    A failure, at the start or later, prints one line that names the remedy and exits: with 2 when
    a setting is wrong, else with 1. The log has the traceback of one that nobody foresaw.
    """
    try:
        settings = settings_class.load(name)
    except InvalidConfiguration as error:
        _die(name, error.message, 2)
    logs.configure(name, settings.instance, level=settings.log_level, format=settings.log_format)
    try:
        uvloop.run(_run(name, settings, build, authority))
    except LeptonError as error:
        log.debug("ended", exc_info=error)
        _die(name, error.message, 2 if isinstance(error, InvalidConfiguration) else 1)
    except OSError as error:
        log.debug("ended", exc_info=error)
        _die(name, f"{error.strerror or error}: {error.filename or 'the system refused it'}", 1)
    except Exception as error:  # the last frame: whatever it is, it is said and ends the process
        log.critical("ended by an unexpected error", exc_info=error)
        _die(name, f"{type(error).__name__}: {logs.redact(str(error))}", 1)


async def _run(
    name: str, settings: SettingsT, build: Build[SettingsT], authority: Authority[SettingsT] | None
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        opening = asyncio.create_task(_open(name, settings, build, authority, stack))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not opening.done():  # told to stop while it waits for etcd or to join
            opening.cancel()
            await asyncio.gather(opening, return_exceptions=True)
            return
        await serve(*opening.result(), stop)


async def _open(
    name: str,
    settings: SettingsT,
    build: Build[SettingsT],
    authority: Authority[SettingsT] | None,
    stack: AsyncExitStack,
) -> tuple[MeshRuntime, Service]:
    renewer = None if authority is None else await authority(settings)
    runtime = await MeshRuntime.open(name, settings, renewer=renewer)
    stack.push_async_callback(runtime.close)
    return runtime, await build(runtime, settings)


async def serve(runtime: MeshRuntime, service: Service, stop: asyncio.Event) -> None:
    """Serves ``service`` until ``stop`` is set: listen, register, wait, drain, close."""
    settings = runtime.settings
    await asyncio.to_thread(keep_ballast, settings.state_dir)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(service.close)
        auth = runtime.channel("auth", idempotent=AUTH_READS)
        runtime.verify_by(
            service.fetch_keys or auth_keys(auth),
            service.fetch_revoked or revoked_certificates(auth),
        )
        servers, address, ports = _listen(runtime, service)
        registration = Registration(runtime.etcd, _instance(runtime, service, address, ports))
        stack.push_async_callback(_drain, runtime, registration, servers)
        runtime.start_verifying()
        await runtime.denylist.wait(DENYLIST_SECONDS)
        for server in servers:
            await server.start()
        if service.take_health is not None:
            service.take_health(servers[0].health)
        await service.start()
        await registration.start()

        async def renewed() -> None:
            not_after = runtime.identity.credentials.not_after.isoformat()
            await registration.update(replace(registration.instance, cert_not_after=not_after))

        runtime.identity.on_rotate(renewed)
        log.info(
            "serving",
            extra={
                "address": address,
                "ports": dict(registration.instance.ports),
                "cpu_seconds": round(time.process_time(), 2),
            },
        )
        await stop.wait()
        log.info("draining", extra={"grace_seconds": settings.drain_grace_seconds})
    log.info("stopped")


def _listen(runtime: MeshRuntime, service: Service) -> tuple[list[MeshServer], str, dict[str, str]]:
    """Binds the main port and those of the listeners; returns both servers and addresses."""
    settings = runtime.settings
    servers, ports = [], {}

    def bind(
        servicers: Sequence[Served],
        table: AuthorizationTable,
        credentials: grpc.ServerCredentials,
        port: int,
        *,
        open_to_anyone: bool = False,
    ) -> str:
        interceptors = server_interceptors(
            runtime.telemetry, runtime.check_peer, runtime.verifier, service.max_concurrent_rpcs
        )
        server = MeshServer(
            servicers,
            table,
            interceptors,
            max_message_bytes=settings.max_message_bytes,
            max_connection_age_seconds=settings.max_connection_age_seconds,
            open_to_anyone=open_to_anyone,
        )
        servers.append(server)
        return server.listen(settings.listen_host, port, credentials)

    address = bind(
        service.servicers,
        service.table,
        server_credentials(runtime.identity),
        settings.listen_port,
    )
    for listener in service.listeners:
        ports[listener.name] = bind(
            listener.servicers,
            listener.table,
            open_server_credentials(runtime.identity),
            listener.port,
            open_to_anyone=True,
        )
    return servers, address, ports


async def _drain(
    runtime: MeshRuntime, registration: Registration, servers: Sequence[MeshServer]
) -> None:
    runtime.draining.set()
    await registration.revoke()
    grace = runtime.settings.drain_grace_seconds
    await asyncio.gather(*(server.drain(grace) for server in servers))


def _instance(
    runtime: MeshRuntime, service: Service, address: str, ports: Mapping[str, str]
) -> Instance:
    metrics = {"metrics": runtime.metrics_address} if runtime.metrics_address else {}
    return Instance(
        service=runtime.service,
        instance=runtime.settings.instance,
        address=address,
        version=metadata.version("lepton-cloud"),
        zone=runtime.settings.zone,
        capacity=service.capacity,
        spiffe_id=str(runtime.identity.spiffe_id),
        cert_not_after=runtime.identity.credentials.not_after.isoformat(),
        ports={**ports, **metrics, **service.ports},
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def _die(name: str, message: str, status: int) -> None:
    sys.stderr.write(f"lepton {name}: {message}\n")
    sys.exit(status)
