"""The channel to hand to a generated stub."""

from __future__ import annotations

import asyncio
from collections.abc import Set
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

import grpc

from lepton_mesh.balancer.limits import RetryBudget
from lepton_mesh.balancer.method import Method
from lepton_mesh.balancer.pool import EndpointPool, InstanceSource
from lepton_mesh.balancer.stream import StreamStream, StreamUnary, UnaryStream
from lepton_mesh.balancer.unary import UnaryUnary

if TYPE_CHECKING:
    from lepton_mesh.connect import Connect


class BalancedChannel(grpc.aio.Channel):
    """A channel over every instance of one service; made inside a running event loop.

    Args:
        directory: Names the instances and tells of changes.
        service: Whose instances.
        connect: Opens a channel to ``host:port`` (credentials, options, interceptors).
            Interceptors run once per attempt.
        idempotent: Full names (``/package.Service/Method``) of methods that may be
            repeated when an instance fails: the same call twice is as good as once.
        hedged: Full names of reads that may be sent to a second instance when the
            first is slow; taken as idempotent too.
        budget: Shared limit of repeating; by default one for this channel.
        wait_seconds: How long a call waits for an instance before it fails with
            UNAVAILABLE; ``wait_for_ready=True`` waits until the call's deadline.
        drain_seconds: How long calls on an instance that left may go on; those on a connection
            that :meth:`refresh` replaced may for STREAM_GRACE_SECONDS.
    """

    def __init__(
        self,
        directory: InstanceSource,
        service: str,
        connect: Connect,
        *,
        idempotent: Set[str] = frozenset(),
        hedged: Set[str] = frozenset(),
        budget: RetryBudget | None = None,
        wait_seconds: float = 10.0,
        drain_seconds: float = 30.0,
    ) -> None:
        self.service = service
        self.pool = EndpointPool(directory, service, connect, drain_seconds)
        self._idempotent = frozenset(idempotent) | frozenset(hedged)
        self._hedged = frozenset(hedged)
        self._budget = budget or RetryBudget()
        self._wait_seconds = wait_seconds

    def unary_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.UnaryUnaryMultiCallable[Any, Any]:
        call = UnaryUnary(self._method(method, request_serializer, response_deserializer))
        return cast("grpc.aio.UnaryUnaryMultiCallable[Any, Any]", call)

    def unary_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.UnaryStreamMultiCallable[Any, Any]:
        call = UnaryStream(self._method(method, request_serializer, response_deserializer))
        return cast("grpc.aio.UnaryStreamMultiCallable[Any, Any]", call)

    def stream_unary(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.StreamUnaryMultiCallable[Any, Any]:
        call = StreamUnary(self._method(method, request_serializer, response_deserializer))
        return cast("grpc.aio.StreamUnaryMultiCallable[Any, Any]", call)

    def stream_stream(
        self,
        method: str,
        request_serializer: Any = None,
        response_deserializer: Any = None,
        _registered_method: bool | None = False,
    ) -> grpc.aio.StreamStreamMultiCallable[Any, Any]:
        call = StreamStream(self._method(method, request_serializer, response_deserializer))
        return cast("grpc.aio.StreamStreamMultiCallable[Any, Any]", call)

    async def refresh(self) -> None:
        """Opens every connection anew, as after a renewed certificate, without losing a call."""
        await self.pool.refresh()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """READY when an instance is connected, else TRANSIENT_FAILURE; it always tries to be."""
        if self.pool.pick() is not None:
            return grpc.ChannelConnectivity.READY
        return grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        while self.get_state() is last_observed_state:
            await self.pool.wait_for_change()

    async def channel_ready(self) -> None:
        """Returns when an instance is connected; waits for ever."""
        await self.pool.take(None)

    async def close(self, grace: float | None = None) -> None:
        """Closes every connection, after at most ``grace`` seconds for the calls in flight."""
        if grace:
            await asyncio.gather(*(one.drain(grace) for one in self.pool.endpoints))
        await self.pool.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()

    def _method(self, path: str, serialize: Any, deserialize: Any) -> Method:
        return Method(
            self.pool,
            self._budget,
            path,
            serialize,
            deserialize,
            idempotent=path in self._idempotent,
            hedged=path in self._hedged,
            wait_seconds=self._wait_seconds,
        )
