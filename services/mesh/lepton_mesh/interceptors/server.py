"""The server's interceptors: everything around a servicer's method that is not its business."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
from opentelemetry import trace

from lepton_mesh import telemetry as names
from lepton_mesh.authorization import CallerNotAllowed, authorize
from lepton_mesh.caller import Caller, set_caller
from lepton_mesh.claims import TokenInvalid, TokenMissing
from lepton_mesh.connect import being_cancelled
from lepton_mesh.disk import disk_full, is_disk_full
from lepton_mesh.errors import Internal, LeptonError, PermissionDenied, ResourceExhausted
from lepton_mesh.interceptors.deadline import set_remaining
from lepton_mesh.interceptors.status import (
    DETAILS_KEY,
    STATUS_BY_NUMBER,
    from_rpc_error,
    public_message,
    to_status,
)

if TYPE_CHECKING:
    from lepton_mesh.claims import Claims
    from lepton_mesh.interceptors.call import Interceptor, Proceed, ServerCall
    from lepton_mesh.spiffe import SpiffeId
    from lepton_mesh.telemetry import Telemetry
    from lepton_mesh.tokens import TokenVerifier

log = logging.getLogger("lepton_mesh.calls")

AUTHORIZATION = "authorization"
WORKSPACE = "x-lepton-workspace"
GATEWAY = "gateway"
"""The service that carries calls of clients outside the mesh."""
FORWARDED = "x-forwarded-proto"
"""Envoy sets it on every request it forwards: such a call is not the gateway's own."""

CheckPeer = Callable[[grpc.aio.ServicerContext[Any, Any]], "SpiffeId | None"]
"""The verified identity at the other end; None on a listener that asks for none.

Raises PermissionDenied where the certificate does not hold (any more)."""

QUIET_SECONDS = 0.05
"""A client that sent nothing for this long is not in the middle of writing."""
QUIET_LIMIT_SECONDS = 1.0
"""How long a client that keeps writing may delay the error it gets."""

_OUR_FAULT = frozenset({"INTERNAL", "UNKNOWN", "DATA_LOSS"})


class ServiceFull(ResourceExhausted):
    reason = "TOO_MANY_CALLS"


class PeerTokenMismatch(PermissionDenied):
    reason = "PEER_TOKEN_MISMATCH"


def server_interceptors(
    telemetry: Telemetry,
    check_peer: CheckPeer,
    verifier: TokenVerifier,
    max_concurrent_rpcs: int,
) -> tuple[Interceptor, ...]:
    """The one order, outermost first."""
    return (
        trace_and_deadline(telemetry),
        log_call,
        metrics(telemetry),
        errors,
        identity(check_peer, verifier),
        authorization,
        limits(max_concurrent_rpcs),
    )


def trace_and_deadline(telemetry: Telemetry) -> Interceptor:
    """Continues the caller's trace, or begins one, and notes the time that is left."""

    async def intercept(call: ServerCall, proceed: Proceed) -> Any:
        set_remaining(call.context.time_remaining())
        parent = names.parse_traceparent(call.metadata.get(names.TRACEPARENT))
        # A call is a task of its own, so whatever is current here is left from its creator.
        above = parent or trace.INVALID_SPAN_CONTEXT
        with telemetry.span(call.method, parent=above, kind=trace.SpanKind.SERVER) as span:
            call.trace_id = f"{span.get_span_context().trace_id:032x}"
            try:
                return await proceed(call)
            finally:
                if span.is_recording():
                    span.set_attribute(names.SPAN_METHOD, call.method)
                    span.set_attribute(names.SPAN_CODE, call.code)
                    if call.caller is not None and call.caller.peer is not None:
                        span.set_attribute(names.SPAN_PEER, str(call.caller.peer))
                    if call.code in _OUR_FAULT:
                        span.set_status(trace.StatusCode.ERROR)

    return intercept


async def log_call(call: ServerCall, proceed: Proceed) -> Any:
    """One record a call: errors of ours with their traceback, refusals, the rest for debugging."""
    started = time.perf_counter()
    try:
        return await proceed(call)
    finally:
        level = logging.DEBUG
        if call.error is not None:
            level = logging.ERROR if call.code in _OUR_FAULT else logging.INFO
        if log.isEnabledFor(level):
            fields: dict[str, Any] = {
                "method": call.method,
                "code": call.code,
                "milliseconds": round(1000 * (time.perf_counter() - started), 2),
            }
            if call.error is not None:
                fields |= {"reason": call.error.reason, "detail": call.error.message}
            if call.caller is not None:
                fields |= {"subject": call.caller.subject, "workspace": call.caller.workspace}
                fields["peer"] = str(call.caller.peer or "")
            cause = call.failure or (call.error if level == logging.ERROR else None)
            log.log(level, "call", extra=fields, exc_info=cause)


def metrics(telemetry: Telemetry) -> Interceptor:
    """Duration by method and code, calls in flight by method."""

    async def intercept(call: ServerCall, proceed: Proceed) -> Any:
        in_flight = telemetry.server_in_flight.labels(call.method)
        started = time.perf_counter()
        in_flight.inc()
        try:
            return await proceed(call)
        finally:
            in_flight.dec()
            elapsed = time.perf_counter() - started
            telemetry.server_seconds.labels(call.method, call.code).observe(elapsed)

    return intercept


async def errors(call: ServerCall, proceed: Proceed) -> Any:  # noqa: RET503  abort raises
    """Turns what is raised inside into a status; nothing unexpected is shown to the caller."""
    # Until something else is known: cancellation arrives as CancelledError, which is
    # neither an error nor ours to answer, because the caller is gone.
    call.code = "CANCELLED"
    try:
        response = await proceed(call)
    except LeptonError as error:
        told = error
    except grpc.aio.AioRpcError as error:
        told = from_rpc_error(error)
        if told.wire.grpc_code == Internal.wire.grpc_code:
            call.failure = error
    except grpc.aio.AbortError:
        call.code = _name_of(call.context.code())
        raise
    except (Exception, asyncio.CancelledError) as error:
        if isinstance(error, asyncio.CancelledError) and being_cancelled():
            raise
        if isinstance(error, OSError) and is_disk_full(error):
            told = disk_full(error.filename or "the service's directory")
        else:
            # A CancelledError of something that the servicer waited for would end the call
            # without an answer: gRPC takes it for the caller's own.
            call.failure = error
            told = Internal(f"internal error; trace id {call.trace_id}", trace_id=call.trace_id)
    else:
        call.code = "OK"
        return response
    call.error = told
    call.code = told.wire.grpc_name
    if call.streams_requests:
        await _quiet(call.context)
    await call.context.abort(
        STATUS_BY_NUMBER[told.wire.grpc_code],
        public_message(told),
        (
            *(call.context.trailing_metadata() or ()),
            (DETAILS_KEY, to_status(told).SerializeToString()),
        ),
    )


def identity(check_peer: CheckPeer, verifier: TokenVerifier) -> Interceptor:
    """Finds out who asks and who carries, and makes it the current caller."""

    async def intercept(call: ServerCall, proceed: Proceed) -> Any:
        peer = check_peer(call.context)
        if call.rule.public:  # whatever credentials come along
            caller = Caller("anonymous", subject="", workspace="", peer=peer)
        elif token := _bearer(call.metadata.get(AUTHORIZATION)):
            caller = token_caller(token, await verifier.verify(token), peer)
        else:
            caller = _own_caller(call, peer)
        call.caller = caller
        set_caller(caller)
        return await proceed(call)

    return intercept


async def authorization(call: ServerCall, proceed: Proceed) -> Any:
    """Asks the table, before anything is looked up."""
    if call.caller is None:
        raise AssertionError("identity comes before authorization")
    authorize(call.rule, call.caller, call.method)
    return await proceed(call)


def limits(max_concurrent_rpcs: int) -> Interceptor:
    """Refuses the calls beyond what the service can hold at once."""
    running = 0

    async def intercept(call: ServerCall, proceed: Proceed) -> Any:
        nonlocal running
        if running >= max_concurrent_rpcs:
            raise ServiceFull(
                f"the service is busy with {running} calls; try again in a moment",
                limit=max_concurrent_rpcs,
            )
        running += 1
        try:
            return await proceed(call)
        finally:
            running -= 1

    return intercept


async def _quiet(context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Discards what the client still sends, until it pauses, but not for long.

    A ``grpc.aio`` client whose write fails because the call has just ended reports INTERNAL in
    place of the status that it was sent (grpc/grpc#36066).
    """
    with contextlib.suppress(Exception):  # a broken message or connection needs no answer
        async with asyncio.timeout(QUIET_LIMIT_SECONDS):
            while True:
                async with asyncio.timeout(QUIET_SECONDS):
                    if await context.read() is grpc.aio.EOF:
                        return


def token_caller(token: str, claims: Claims, peer: SpiffeId | None) -> Caller:
    """The token's caller: a job presents its own token only, and nobody brings it in from outside.

    A service may carry a job's token on, as the registry does to storage: it had it from the job
    itself. The gateway may not: whoever calls through it has shown no certificate of the job.
    """
    if peer is not None and peer.job:
        own = ("job", f"jobs/{peer.job}", peer.workspace)
        if (claims.kind, claims.subject, claims.workspace) != own:
            raise PeerTokenMismatch(
                f"{peer} may present its own token only", peer=peer, subject=claims.subject
            )
    elif claims.kind == "job" and (peer is None or peer.service in (None, GATEWAY)):
        raise PeerTokenMismatch(
            f"the token of {claims.subject} is good only with that job's own certificate",
            subject=claims.subject,
        )
    return Caller(
        kind=claims.kind,
        subject=claims.subject,
        workspace=claims.workspace,
        role=claims.role,
        peer=peer,
        token=token,
        reads=claims.reads,
        writes=claims.writes,
    )


def _own_caller(call: ServerCall, peer: SpiffeId | None) -> Caller:
    """The caller of a call without a token: a process that acts on its own behalf."""
    rule = call.rule
    if peer is not None and FORWARDED not in call.metadata:
        workspace = call.metadata.get(WORKSPACE)
        if peer.job and rule.peers:
            return Caller("job", f"jobs/{peer.job}", peer.workspace or "", peer=peer)
        if peer.service and (rule.peers or peer.service in rule.services):
            name = f"services/{peer.service}"
            return Caller("service", name, str(workspace or ""), peer=peer)
        if peer.service and workspace is not None:
            raise CallerNotAllowed(
                f"service '{peer.service}' may not call {call.method} on its own behalf",
                method=call.method,
                caller_kind="service",
            )
    if rule.min_role is None and not rule.jobs:
        raise CallerNotAllowed(
            f"{peer or 'a peer without a certificate'} may not call {call.method}",
            method=call.method,
            caller_kind="peer",
        )
    raise TokenMissing(
        "the call carries no token; log in and send 'authorization: Bearer <token>'",
        method=call.method,
    )


def _bearer(value: str | bytes | None) -> str:
    """The token of an authorization header; "" without one."""
    if value is None:
        return ""
    scheme, _, token = str(value).partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise TokenInvalid("the authorization header is not 'Bearer <token>'")
    return token.strip()


def _name_of(code: Any) -> str:
    """A status code as set on a context: the enum, or gRPC's integer."""
    if isinstance(code, int):
        code = STATUS_BY_NUMBER.get(code)
    return code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"
