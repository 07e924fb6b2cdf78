"""The Open Inference Protocol over grpc.aio: the fallback where Envoy or libpython is missing.

The same protocol, gate, bounds and errors as the ASGI application; slower (a third of its
requests a second on small models), and gRPC only. gRPC hands over whole messages, which count
against the budget from then on, before it is known who sent them, until they are answered. Those
of a stream are not read before its caller is admitted. Calls beyond :data:`MAX_CALLS` are refused
by gRPC itself.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from opentelemetry.trace import SpanKind

from lepton_inference.budget import PUBLIC_BODY_BYTES, BodiesTooMany, Budget, Held
from lepton_inference.framing import too_large
from lepton_inference.gate import (
    AUTHORIZATION,
    FORWARDED_CERTIFICATE,
    PEER_SERIAL,
    PUBLIC_PATHS,
    Gate,
)
from lepton_inference.open_inference import HEALTH_SERVICE, SERVICES, OpenInference
from lepton_inference.serving import Admitted
from lepton_inference.streams import RequestStream
from lepton_mesh.errors import FailedPrecondition, Internal, LeptonError
from lepton_mesh.interceptors.status import (
    DETAILS_KEY,
    STATUS_BY_NUMBER,
    public_message,
    to_status,
)
from lepton_mesh.peers import peer_certificate
from lepton_mesh.server import server_options
from lepton_mesh.spiffe import SpiffeId
from lepton_mesh.telemetry import TRACEPARENT, Telemetry, parse_traceparent

log = logging.getLogger(__name__)

MAX_CALLS = 8192
"""Calls that are open at once, over all callers: twice as many as may wait for one model where
its endpoint does not say otherwise. gRPC answers the next with RESOURCE_EXHAUSTED, unread."""

Context = grpc.aio.ServicerContext[bytes, bytes]
CheckPeer = Callable[[Any], SpiffeId | None]


class CannotListen(FailedPrecondition):
    reason = "CANNOT_LISTEN_OIP"


class GrpcPort:
    """A grpc.aio server of the protocol.

    Args:
        protocol: What is served.
        gate: Who may call.
        check_peer: Who is at the other end of a call; raises where they may not be.
        max_message_bytes: The largest request taken.
        max_connection_age_seconds: After which clients are told to connect anew.
        telemetry: Where the spans of sampled traces go; None for nowhere.
        max_bytes_in_flight: Bytes of requests that are held at once.
        max_calls: Calls that are open at once.
    """

    def __init__(
        self,
        protocol: OpenInference,
        gate: Gate,
        check_peer: CheckPeer,
        max_message_bytes: int,
        max_connection_age_seconds: float = 900.0,
        *,
        telemetry: Telemetry | None = None,
        max_bytes_in_flight: int = 256 << 20,
        max_calls: int = MAX_CALLS,
    ) -> None:
        self._telemetry = telemetry
        self._protocol = protocol
        self._gate = gate
        self._check_peer = check_peer
        self._budget = Budget(max_bytes_in_flight)
        self._server = grpc.aio.server(
            options=server_options(max_message_bytes, max_connection_age_seconds),
            maximum_concurrent_rpcs=max_calls,
        )
        self._server.add_generic_rpc_handlers((_Handlers(self),))

    async def start(self, credentials: grpc.ServerCredentials | None, host: str, port: int) -> str:
        """Serves; returns ``host:port``.

        Args:
            credentials: The mesh's; None serves in the clear, which only tests do.

        Raises:
            CannotListen: The port is taken.
        """
        try:
            address = f"{host}:{port}"
            bound = (
                self._server.add_insecure_port(address)
                if credentials is None
                else self._server.add_secure_port(address, credentials)
            )
        except RuntimeError:
            raise CannotListen(
                f"cannot listen on {host}:{port}; set LEPTON_OIP_PORT to a free port, or 0"
            ) from None
        await self._server.start()
        return f"{host}:{bound}"

    async def stop(self, grace: float) -> None:
        """Lets running calls finish for ``grace`` seconds."""
        await self._server.stop(grace)

    async def unary(self, method: str, body: bytes, context: Context) -> bytes:
        """Answers one unary call."""
        held = Held(self._budget)

        async def answer() -> bytes:
            # Before the caller is known: that may take a while, with any number of them waiting.
            if method in PUBLIC_PATHS and len(body) > PUBLIC_BODY_BYTES:
                raise too_large(PUBLIC_BODY_BYTES)
            held.add(len(body))
            admitted = await self._admit(method, context)
            name = method.rpartition("/")[2]
            if name == "ModelInfer":
                return await self._protocol.infer(admitted, body, context.time_remaining())
            if method == f"/{HEALTH_SERVICE}/Check":
                return self._protocol.check_health(body)
            return await self._protocol.call(name, admitted, body, context.time_remaining())

        try:
            with self._span(method, context):
                return await _translated(method, context, answer)
        finally:
            held.release()

    async def stream(self, method: str, requests: AsyncIterator[bytes], context: Context) -> None:
        """Answers ModelStreamInfer."""
        held = Held(self._budget)

        async def answer() -> bytes:
            admitted = await self._admit(method, context)
            await self._answer_stream(requests, context, admitted, held)
            return b""

        try:
            with self._span(method, context):
                await _translated(method, context, answer)
        finally:
            held.release()

    async def _answer_stream(
        self, requests: AsyncIterator[bytes], context: Context, admitted: Admitted, held: Held
    ) -> None:
        waiting = 0
        refusal: BodiesTooMany | None = None

        def keep() -> None:
            held.keep(stream.bytes + waiting)

        stream = RequestStream(self._protocol, admitted, context.write, settled=keep)
        # A caller who goes away cancels this.
        async with stream:
            async for body in requests:
                try:
                    held.add(len(body))
                except BodiesTooMany as error:
                    refusal = error  # once what was begun is answered
                    break
                waiting = len(body)
                await stream.room()
                # The time is for the whole stream.
                stream.begin(body, context.time_remaining())
                waiting = 0
            await stream.finish()
        if refusal is not None:
            raise refusal

    def _span(self, method: str, context: Context) -> contextlib.AbstractContextManager[Any]:
        """The span of a call that belongs to a trace; nothing for any other."""
        traceparent = dict(context.invocation_metadata() or ()).get(TRACEPARENT)
        if self._telemetry is None or traceparent is None:
            return contextlib.nullcontext()
        parent = parse_traceparent(traceparent)
        return self._telemetry.span(method, parent=parent, kind=SpanKind.SERVER)

    async def _admit(self, method: str, context: Context) -> Admitted:
        metadata = dict(context.invocation_metadata() or ())
        peer = self._check_peer(context)
        # What the client itself says of its certificate counts for nothing.
        headers = {FORWARDED_CERTIFICATE: f"URI={peer}".encode()} if peer is not None else {}
        certificate = peer_certificate(context.auth_context())
        if certificate is not None:
            headers[PEER_SERIAL] = certificate.serial.encode()
        authorization = metadata.get("authorization")
        if isinstance(authorization, str):
            headers[AUTHORIZATION] = authorization.encode()
        if method.rpartition("/")[2] == "ModelInfer":
            known = self._gate.known(headers)
            if known is not None:
                return known
        return await self._gate.admit(method, headers)


class _Handlers(grpc.GenericRpcHandler):
    """Bytes in, bytes out: the protocol parses by itself."""

    def __init__(self, port: GrpcPort) -> None:
        self._port = port

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        method = details.method
        service, _, name = method.lstrip("/").partition("/")
        if service not in SERVICES and method != f"/{HEALTH_SERVICE}/Check":
            return None
        if name == "ModelStreamInfer":

            async def stream(requests: AsyncIterator[bytes], context: Context) -> None:
                await self._port.stream(method, requests, context)

            return grpc.stream_stream_rpc_method_handler(stream)

        async def unary(body: bytes, context: Context) -> bytes:
            return await self._port.unary(method, body, context)

        return grpc.unary_unary_rpc_method_handler(unary)


async def _translated(
    method: str, context: Context, answer: Callable[[], Awaitable[bytes]]
) -> bytes:
    """The answer, or the status of what was raised."""
    try:
        return await answer()
    except LeptonError as error:
        told = error
    except grpc.aio.AbortError:
        raise
    except Exception:
        log.exception("call failed", extra={"method": method})
        told = Internal("internal error")
    return await context.abort(
        STATUS_BY_NUMBER[told.wire.grpc_code],
        public_message(told),
        ((DETAILS_KEY, to_status(told).SerializeToString()),),
    )
