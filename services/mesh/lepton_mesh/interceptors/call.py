"""One RPC being served, and how a servicer's methods are wrapped.

gRPC's own interceptors are asked anew for every call. Here each method of a servicer is
wrapped once, when it is registered, so that a call pays for the interceptors' work alone.
All four arities become one shape, ``async (ServerCall) -> response or None``; the responses
of streams are written to the context. Requests are parsed here too, inside the chain: where
gRPC parses them, the caller of a malformed one gets UNKNOWN and no interceptor hears of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from lepton_mesh.authorization import Rule
from lepton_mesh.caller import Caller
from lepton_mesh.errors import InvalidArgument, LeptonError


class MessageMalformed(InvalidArgument):
    reason = "MESSAGE_MALFORMED"


@dataclass(slots=True)
class ServerCall:
    """What interceptors know of one RPC; each fills in what it finds out."""

    method: str
    """``/package.Service/Method``."""
    rule: Rule
    request: Any
    """The message, or the async iterator of messages, as it came: parsed by the servicer's side."""
    context: grpc.aio.ServicerContext[Any, Any]
    metadata: Mapping[str, str | bytes]
    streams_requests: bool = False
    code: str = "OK"
    """The status' name; final once the errors interceptor returned."""
    trace_id: str = ""
    caller: Caller | None = None
    error: LeptonError | None = field(default=None)
    """What the caller was told."""
    failure: BaseException | None = field(default=None)
    """What really happened, where the caller was told "internal error"."""


Proceed = Callable[[ServerCall], Awaitable[Any]]
Interceptor = Callable[[ServerCall, Proceed], Awaitable[Any]]


class Methods:
    """Collects what generated ``add_..._to_server`` functions register."""

    def __init__(self) -> None:
        self.handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        """Full method name -> handler."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        self.handlers.update({f"/{service}/{name}": one for name, one in handlers.items()})

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Generated code registers everything twice; this is the form without method names."""


class Dispatcher(grpc.GenericRpcHandler):
    """Full method name -> wrapped handler; what is not known goes to ``unknown``."""

    def __init__(
        self,
        handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]],
        unknown: grpc.RpcMethodHandler[Any, Any],
    ) -> None:
        self._handlers = dict(handlers)
        self._unknown = unknown

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[Any, Any]:
        return self._handlers.get(handler_call_details.method, self._unknown)


def intercept(
    handler: grpc.RpcMethodHandler[Any, Any],
    method: str,
    rule: Rule,
    interceptors: Sequence[Interceptor],
) -> grpc.RpcMethodHandler[Any, Any]:
    """``handler`` with ``interceptors`` around it, the first outermost."""
    chain = _terminal(handler)
    for interceptor in reversed(interceptors):
        chain = _around(interceptor, chain)

    streams = bool(handler.request_streaming)

    async def serve(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        metadata = dict(context.invocation_metadata() or ())
        return await chain(ServerCall(method, rule, request, context, metadata, streams))

    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[streams, bool(handler.response_streaming)]
    wrapped: grpc.RpcMethodHandler[Any, Any] = make(
        serve, response_serializer=handler.response_serializer
    )
    return wrapped


def _around(interceptor: Interceptor, proceed: Proceed) -> Proceed:
    async def call(call: ServerCall) -> Any:
        return await interceptor(call, proceed)

    return call


def _terminal(handler: Any) -> Proceed:
    request_of = _parser(handler)
    if handler.response_streaming:
        behavior = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def stream(call: ServerCall) -> None:
            responses = behavior(request_of(call), call.context)
            if not isinstance(responses, AsyncIterator):
                await responses  # it writes to the context itself
                return
            # Closed here, in this task, rather than whenever the collector finds it.
            async with contextlib.aclosing(responses):  # type: ignore[type-var]  # generators
                async for response in responses:
                    await call.context.write(response)

        return stream
    behavior = handler.stream_unary if handler.request_streaming else handler.unary_unary

    async def unary(call: ServerCall) -> Any:
        return await behavior(request_of(call), call.context)

    return unary


def _parser(handler: Any) -> Callable[[ServerCall], Any]:
    """Makes the message, or the iterator of messages, of what a call carries.

    Raises MessageMalformed, for a stream when the message is asked for.
    """
    deserialize = handler.request_deserializer

    def parsed(content: bytes, method: str) -> Any:
        try:
            return content if deserialize is None else deserialize(content)
        except Exception as error:  # DecodeError differs between protobuf's implementations
            raise MessageMalformed(
                f"the request is not a message of {method}; "
                "check what is sent, and bring both ends to the same version",
                method=method,
            ) from error

    async def each(contents: AsyncIterator[bytes], method: str) -> AsyncIterator[Any]:
        async for content in contents:
            yield parsed(content, method)

    if handler.request_streaming:
        return lambda call: each(call.request, call.method)
    return lambda call: parsed(call.request, call.method)
