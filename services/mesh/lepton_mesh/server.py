"""The gRPC server of a process: its options, its services with the interceptors, its drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

from lepton_mesh.authorization import Rule
from lepton_mesh.connect import STREAM_GRACE_SECONDS
from lepton_mesh.errors import FailedPrecondition, Unavailable, Unimplemented
from lepton_mesh.health import Health
from lepton_mesh.interceptors.call import Dispatcher, Interceptor, Methods, intercept

if TYPE_CHECKING:
    from google.protobuf.descriptor import ServiceDescriptor

    from lepton_mesh.authorization import AuthorizationTable

OPEN_MESSAGE_BYTES = 64 << 10
"""The largest message where anyone may connect."""
DEREGISTERED_SECONDS = 0.5
"""How long clients may need to hear that an instance left."""

_PUBLIC = Rule(public=True)
_HEALTH = "grpc.health.v1.Health"
_REFLECTION = "grpc.reflection.v1alpha.ServerReflection"


class MethodUnknown(Unimplemented):
    reason = "METHOD_UNKNOWN"


class TableIncomplete(FailedPrecondition):
    reason = "AUTHORIZATION_TABLE_INCOMPLETE"


class CannotListen(Unavailable):
    reason = "CANNOT_LISTEN"


class Served(NamedTuple):
    """One gRPC service of a process."""

    add: Callable[[Any, Any], None]
    """The generated ``add_<Service>Servicer_to_server``."""
    servicer: Any
    descriptor: ServiceDescriptor


class MeshServer:
    """A ``grpc.aio`` server whose every method goes through ``interceptors``.

    Raises TableIncomplete if ``table`` lacks a method that is served.

    Args:
        open_to_anyone: For a port that asks for no client certificate: it has neither health
            checks nor reflection, and takes small messages only.
    """

    def __init__(
        self,
        servicers: Sequence[Served],
        table: AuthorizationTable,
        interceptors: Sequence[Interceptor],
        *,
        max_message_bytes: int = 64 << 20,
        max_connection_age_seconds: float = 900.0,
        open_to_anyone: bool = False,
    ) -> None:
        if open_to_anyone:
            max_message_bytes = min(max_message_bytes, OPEN_MESSAGE_BYTES)
        names = [served.descriptor.full_name for served in servicers]
        self.health = Health(names)
        self._server = grpc.aio.server(
            options=server_options(max_message_bytes, max_connection_age_seconds)
        )
        methods = Methods()
        for served in servicers:
            served.add(served.servicer, methods)
        if missing := sorted(methods.handlers.keys() - table.keys()):
            raise TableIncomplete(
                f"the authorization table has no rule for {', '.join(missing)}; add one for each"
            )
        # Free for every peer of the mesh and without the limit: a full server is healthy.
        free = Methods()
        # Methods has what generated code asks of a server.
        add_health: Any = health_pb2_grpc.add_HealthServicer_to_server
        add_reflection: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
        if not open_to_anyone:
            add_health(self.health, free)
            add_reflection(reflection.aio.ReflectionServicer([*names, _HEALTH, _REFLECTION]), free)
        wrapped = {
            method: intercept(handler, method, table.rule(method), interceptors)
            for method, handler in methods.handlers.items()
        } | {
            method: intercept(handler, method, _PUBLIC, interceptors[:-1])
            for method, handler in free.handlers.items()
        }
        unknown = intercept(
            grpc.unary_unary_rpc_method_handler(_unknown), "unknown", _PUBLIC, interceptors
        )
        self._server.add_generic_rpc_handlers((Dispatcher(wrapped, unknown),))

    def listen(self, host: str, port: int, credentials: grpc.ServerCredentials) -> str:
        """Binds a port, 0 for any that is free; returns ``host:port``. Raises CannotListen."""
        try:
            bound = self._server.add_secure_port(_join(host, port), credentials)
        except RuntimeError as error:
            raise CannotListen(
                f"cannot listen on {_join(host, port)}: another process has the port, or the "
                "address is not this machine's; set LEPTON_LISTEN_HOST and LEPTON_LISTEN_PORT"
            ) from error
        return _join(host, bound)

    async def start(self) -> None:
        """Serves, and says so to health checks."""
        await self._server.start()
        self.health.serving()

    async def drain(self, grace_seconds: float) -> None:
        """Stops without failing a call: new ones go elsewhere, running ones get ``grace_seconds``.

        The instance's registration must have been revoked before.
        """
        self.health.not_serving()
        await asyncio.sleep(min(DEREGISTERED_SECONDS, grace_seconds))
        await self._server.stop(grace_seconds)


async def _unknown(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    raise MethodUnknown("this server has no such method; check its name and the API version")


def server_options(
    max_message_bytes: int, max_connection_age_seconds: float
) -> tuple[tuple[str, int], ...]:
    """gRPC's options of every server in the mesh."""
    return (
        # On by default, and then two servers share a port without a word.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_connection_age_ms", round(1000 * max_connection_age_seconds)),
        ("grpc.max_connection_age_grace_ms", 1000 * STREAM_GRACE_SECONDS),
        # Clients ping every 10 s; the default of 5 minutes would answer with GOAWAY.
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    )


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
