"""One instance as the balancer sees it: its channel, its load, its health."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

if TYPE_CHECKING:
    from lepton_mesh.connect import Connect

EWMA_SECONDS = 5.0
"""In this time a latency loses 63% of its weight."""
UNPROVEN_SECONDS = 1.0
"""Taken for the latency of an instance that was called and has answered nothing yet."""
FAILURES_TO_EJECT = 3
EJECTION_SECONDS = 1.0
MAX_EJECTION_SECONDS = 30.0

FAILURES = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Statuses that say something of the instance: an error that comes quickly is no speed."""


class Endpoint:
    """A channel to one instance; connects at once and reconnects by itself.

    Args:
        address: ``host:port``.
        connect: Opens the channel.
        on_change: Called when it becomes connected or ceases to be.
        clock: Seconds; by default the loop's time.
    """

    def __init__(
        self,
        address: str,
        connect: Connect,
        on_change: Callable[[], None],
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.address = address
        self.channel = connect(address)
        self.in_flight = 0
        self.draining = False
        self.connected = False
        self._on_change = on_change
        self._latency = 0.0
        self._latency_at = 0.0
        self._failures = 0
        self._ejections = 0
        self._ejected_until = 0.0
        self._idle = asyncio.Event()
        self._idle.set()
        self._methods: dict[tuple[str, str], Any] = {}
        self._clock = clock or asyncio.get_running_loop().time
        self._watch = asyncio.create_task(self._follow_state(), name=f"channel to {address}")

    @property
    def ready(self) -> bool:
        """Whether it may be given calls."""
        return self.connected and not self.draining

    @property
    def ejected(self) -> bool:
        """Whether it failed lately and is better left alone."""
        return self._clock() < self._ejected_until

    @property
    def cost(self) -> float:
        """What one more call would wait here, roughly: seconds."""
        if not self._latency_at:
            # One call finds out how fast it is; until then it gets no second one
            # while others are free.
            return self.in_flight * UNPROVEN_SECONDS
        age = self._clock() - self._latency_at
        faded = self._latency * math.exp(-age / EWMA_SECONDS)
        return (self.in_flight + 1) * max(faded, 0.0001)

    def method(self, arity: str, path: str, serialize: Any, deserialize: Any) -> Any:
        """The multicallable of the channel for a method; made once."""
        key = (arity, path)
        found = self._methods.get(key)
        if found is None:
            found = self._methods[key] = getattr(self.channel, arity)(
                path, request_serializer=serialize, response_deserializer=deserialize
            )
        return found

    def begin(self) -> None:
        """A call starts; each needs one :meth:`end`."""
        self.in_flight += 1
        self._idle.clear()

    def end(self) -> None:
        self.in_flight -= 1
        if self.in_flight == 0:
            self._idle.set()

    def refused(self, code: grpc.StatusCode, seconds: float) -> None:
        """It answered with an error after ``seconds``."""
        if code in FAILURES:
            self.failed()
        elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
            # One may be the caller's haste, several in a row are an instance that hangs.
            self.kept_waiting(seconds)
            self.failed()
        else:
            self.answered(seconds)

    def answered(self, seconds: float) -> None:
        """It answered, be it with an error of the application's."""
        now = self._clock()
        if seconds >= self._latency:
            self._latency = seconds  # a rise counts at once, a fall bit by bit
        else:
            weight = math.exp(-(now - self._latency_at) / EWMA_SECONDS)
            self._latency = self._latency * weight + seconds * (1 - weight)
        self._latency_at = now
        self.works()

    def works(self) -> None:
        """A stream got a message: it serves, though nobody can say how fast."""
        self._failures = 0
        self._ejections = 0

    def kept_waiting(self, seconds: float) -> None:
        """It did not answer within ``seconds`` and is not waited for any more."""
        if seconds > self._latency:
            self._latency = seconds
            self._latency_at = self._clock()

    def failed(self) -> None:
        """A call failed for want of the instance; that it did so quickly is not to its credit.

        Some in a row eject it; each further one, when it is given calls again,
        does so for twice as long.
        """
        self._failures += 1
        if self._failures < FAILURES_TO_EJECT or self.ejected:
            return
        seconds = min(MAX_EJECTION_SECONDS, EJECTION_SECONDS * 2**self._ejections)
        self._ejections += 1
        self._ejected_until = self._clock() + seconds * random.uniform(0.8, 1.2)  # noqa: S311 - jitter is no secret

    async def drain(self, grace_seconds: float) -> None:
        """Takes no new call, lets those in flight end for ``grace_seconds``, and closes."""
        self.draining = True
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), grace_seconds)
        finally:  # also when the pool closes meanwhile
            await self.close()

    async def close(self) -> None:
        self.draining = True
        self._watch.cancel()
        await asyncio.gather(self._watch, return_exceptions=True)
        await self.channel.close()

    async def _follow_state(self) -> None:
        state = None
        while state is not grpc.ChannelConnectivity.SHUTDOWN:
            state = self.channel.get_state(try_to_connect=True)
            connected = state is grpc.ChannelConnectivity.READY
            if connected != self.connected:
                self.connected = connected
                if connected:  # what failed was the connection before
                    self._failures = self._ejections = 0
                    self._ejected_until = 0.0
                self._on_change()
            await self.channel.wait_for_state_change(state)
