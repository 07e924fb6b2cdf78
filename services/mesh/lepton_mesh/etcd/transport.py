"""Connections to etcd's endpoints: the first that is ready is used, and kept while it answers."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from lepton_mesh.connect import being_cancelled
from lepton_mesh.etcd.errors import EtcdUnavailable, translate, was_not_applied

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from lepton_mesh.connect import Connect

ResponseT = TypeVar("ResponseT", bound="Message")

READY = grpc.ChannelConnectivity.READY


class Transport:
    """One channel per endpoint, opened when first needed.

    Args:
        endpoints: ``host:port`` of each member.
        connect: Opens a channel; called again by :meth:`refresh`.
        attempt_seconds: How long one attempt may take before another endpoint is tried.
    """

    def __init__(
        self, endpoints: Sequence[str], connect: Connect, attempt_seconds: float = 3.0
    ) -> None:
        if not endpoints:
            raise ValueError("etcd has no endpoints; set LEPTON_ETCD_ENDPOINTS=host:port")
        self._endpoints = tuple(endpoints)
        self._connect = connect
        self._attempt_seconds = attempt_seconds
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._current = 0
        self._closing: set[asyncio.Task[None]] = set()

    async def unary(
        self,
        method: str,
        request: Message,
        response_type: type[ResponseT],
        *,
        safe: bool,
        timeout_seconds: float,
    ) -> ResponseT:
        """Calls ``method``.

        A request is sent only on a connection that stands. Once sent, it is sent
        again only when ``safe`` (doing it twice is the same as once) or when etcd
        says that it was not applied.

        Raises:
            EtcdUnavailable: No answer within ``timeout_seconds``.
            LeptonError: See :mod:`lepton_mesh.etcd.errors`.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_seconds
        pause = 0.02
        while True:
            endpoint, channel = await self.ready(deadline)
            call: grpc.aio.UnaryUnaryMultiCallable[Any, ResponseT] = channel.unary_unary(
                method,
                request_serializer=type(request).SerializeToString,
                response_deserializer=response_type.FromString,
            )
            attempt = max(0.05, min(self._attempt_seconds, deadline - loop.time()))
            try:
                return await call(request, timeout=attempt)
            except grpc.aio.AioRpcError as error:
                failure = translate(error, method, endpoint)
                again = was_not_applied(error) or (safe and isinstance(failure, EtcdUnavailable))
            except asyncio.CancelledError:
                if being_cancelled():
                    raise
                failure = EtcdUnavailable(f"the connection to etcd at {endpoint} was closed")
                again = safe
            if not again or loop.time() + pause >= deadline:
                raise failure
            self.demote(endpoint)
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter is no secret
            pause = min(2 * pause, 0.5)

    async def ready(self, deadline: float) -> tuple[str, grpc.aio.Channel]:
        """An endpoint whose channel is connected, the current one if it is.

        Raises:
            EtcdUnavailable: None is by ``deadline`` (loop time).
        """
        count = len(self._endpoints)
        order = [self._endpoints[(self._current + step) % count] for step in range(count)]
        if self._channel(order[0]).get_state(try_to_connect=True) is READY:
            return order[0], self._channel(order[0])
        waits = {
            asyncio.create_task(self._channel(endpoint).channel_ready()): endpoint
            for endpoint in order
        }
        try:
            left = max(0.0, deadline - asyncio.get_running_loop().time())
            await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for wait, endpoint in waits.items():
                if wait.done() and not wait.cancelled() and wait.exception() is None:
                    self._current = self._endpoints.index(endpoint)
                    return endpoint, self._channel(endpoint)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        raise EtcdUnavailable(
            f"no connection to etcd at {', '.join(self._endpoints)}; check that it runs, that "
            "LEPTON_ETCD_ENDPOINTS names it, and that the certificates are of one authority"
        )

    def demote(self, endpoint: str) -> None:
        """Prefers the next endpoint from now on, if ``endpoint`` is the preferred one."""
        if self._endpoints[self._current] == endpoint:
            self._current = (self._current + 1) % len(self._endpoints)

    async def refresh(self) -> None:
        """Opens every channel anew, as after a renewed certificate.

        The new channel takes over when it is connected; the old one is closed
        when what was sent on it must have ended. Where none comes up, the old stays.
        """
        for endpoint, old in list(self._channels.items()):
            new = self._connect(endpoint)
            try:
                await asyncio.wait_for(new.channel_ready(), 2 * self._attempt_seconds)
            except TimeoutError:
                await new.close()
                continue
            self._channels[endpoint] = new
            task = asyncio.create_task(self._close_later(old))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        closing = list(self._closing)
        for task in closing:
            task.cancel()
        await asyncio.gather(*closing, return_exceptions=True)
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()

    def _channel(self, endpoint: str) -> grpc.aio.Channel:
        channel = self._channels.get(endpoint)
        if channel is None:
            channel = self._channels[endpoint] = self._connect(endpoint)
        return channel

    async def _close_later(self, channel: grpc.aio.Channel) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(self._attempt_seconds)
        await channel.close()
