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
        self._renewing: dict[str, asyncio.Task[None]] = {}

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

        The new channel takes over when it is connected, or when the old one is not any more,
        and the old one is closed when what was sent on it must have ended. Returns when that
        is done, or after two attempts; what is left then goes on in the background.
        """
        renewals = [
            self._renew_soon(endpoint, old, self._connect(endpoint))
            for endpoint, old in self._channels.items()
        ]
        if renewals:
            await asyncio.wait(renewals, timeout=2 * self._attempt_seconds)

    async def close(self) -> None:
        tasks = [*self._closing, *self._renewing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()

    def _renew_soon(
        self, endpoint: str, old: grpc.aio.Channel, new: grpc.aio.Channel
    ) -> asyncio.Task[None]:
        if superseded := self._renewing.get(endpoint):
            superseded.cancel()  # its channel has the certificate before this one
        task = asyncio.create_task(self._renew(endpoint, old, new))
        self._renewing[endpoint] = task
        task.add_done_callback(lambda done: self._forget_renewal(endpoint, done))
        return task

    def _forget_renewal(self, endpoint: str, task: asyncio.Task[None]) -> None:
        if self._renewing.get(endpoint) is task:
            del self._renewing[endpoint]

    async def _renew(self, endpoint: str, old: grpc.aio.Channel, new: grpc.aio.Channel) -> None:
        try:
            while old.get_state() is READY:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(new.channel_ready(), self._attempt_seconds)
                    break
        except BaseException:
            await new.close()
            raise
        self._channels[endpoint] = new
        task = asyncio.create_task(self._close_later(old))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _channel(self, endpoint: str) -> grpc.aio.Channel:
        channel = self._channels.get(endpoint)
        if channel is None:
            channel = self._channels[endpoint] = self._connect(endpoint)
        return channel

    async def _close_later(self, channel: grpc.aio.Channel) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(self._attempt_seconds)
        await channel.close()
