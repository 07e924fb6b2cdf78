"""The client's side of every call of the mesh: a channel that carries the context on.

Wraps any ``grpc.aio`` channel. Each call gets the remaining deadline, the trace and the
credentials of whoever it is made for; an error comes back as the LeptonError that the called
service raised. gRPC's own client interceptors would add two tasks to every call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc
from opentelemetry import trace

from lepton_mesh import telemetry as names
from lepton_mesh.caller import outgoing_credentials
from lepton_mesh.connect import being_cancelled
from lepton_mesh.errors import DeadlineExceeded, Unavailable
from lepton_mesh.interceptors.deadline import within
from lepton_mesh.interceptors.server import AUTHORIZATION, WORKSPACE
from lepton_mesh.interceptors.status import from_rpc_error

if TYPE_CHECKING:
    from lepton_mesh.telemetry import Telemetry

Observe = Callable[[str], None]
"""Is told the status' name once the call has ended."""
T = TypeVar("T")


class MeshChannel(grpc.aio.Channel):
    """A channel to ``service`` for generated stubs; its calls raise LeptonError."""

    def __init__(self, channel: grpc.aio.Channel, service: str, telemetry: Telemetry) -> None:
        self.inner = channel
        self._service = service
        self._telemetry = telemetry

    def unary_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrap(method, self.inner.unary_unary(method, *args, **kwargs))

    def unary_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrap(method, self.inner.unary_stream(method, *args, **kwargs))

    def stream_unary(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrap(method, self.inner.stream_unary(method, *args, **kwargs))

    def stream_stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return self._wrap(method, self.inner.stream_stream(method, *args, **kwargs))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self.inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self.inner.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        await self.inner.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()

    def _wrap(self, method: str, invoke: Any) -> Callable[..., MeshCall]:
        service, seconds = self._service, self._telemetry.client_seconds

        def call(
            request: Any = None, timeout: float | None = None, metadata: Any = None, **options: Any
        ) -> MeshCall:
            started = time.perf_counter()

            def observe(code: str) -> None:
                seconds.labels(service, method, code).observe(time.perf_counter() - started)

            timeout = within(timeout)
            if timeout is not None and timeout <= 0:
                observe(DeadlineExceeded.wire.grpc_name)
                raise DeadlineExceeded(
                    "the call's time is up; try again or allow more time", service=service
                )
            inner = invoke(request, timeout=timeout, metadata=outgoing(metadata), **options)
            return MeshCall(inner, service, observe)

        return call


class MeshCall:
    """A call as ``grpc.aio`` has it, except that its errors are LeptonErrors."""

    def __init__(self, inner: Any, service: str, observe: Observe) -> None:
        self._inner = inner
        self._service = service
        self._observe: Observe | None = observe

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    async def __aiter__(self) -> AsyncIterator[Any]:
        try:
            while (message := await self.read()) is not grpc.aio.EOF:
                yield message
        finally:
            # A loop that was left early wants no more of the stream.
            if not self._inner.done():
                self._inner.cancel()
            self._ended("CANCELLED")

    async def read(self) -> Any:
        """The next message, ``grpc.aio.EOF`` after the last."""
        message = await self._guard(self._inner.read())
        if message is grpc.aio.EOF:
            self._ended("OK")
        return message

    async def write(self, request: Any) -> None:
        await self._guard(self._inner.write(request))

    async def done_writing(self) -> None:
        await self._guard(self._inner.done_writing())

    async def wait_for_connection(self) -> None:
        await self._guard(self._inner.wait_for_connection())

    def __getattr__(self, name: str) -> Any:
        """cancel, done, code, metadata and the like are gRPC's own."""
        return getattr(self._inner, name)

    async def _answer(self) -> Any:
        response = await self._guard(self._inner)
        self._ended("OK")
        return response

    async def _guard(self, awaitable: Awaitable[T]) -> T:
        try:
            return await awaitable
        except grpc.aio.AioRpcError as error:
            self._ended(error.code().name)
            raise from_rpc_error(error, self._service) from error
        except asyncio.CancelledError:
            self._ended("CANCELLED")
            if being_cancelled() or self._inner.cancelled():
                raise
            # The server, or a channel that was closed, ended it: not this task's cancellation.
            raise Unavailable(
                f"service '{self._service}' ended the call; try again", service=self._service
            ) from None

    def _ended(self, code: str) -> None:
        if self._observe is not None:
            self._observe(code)
            self._observe = None


def outgoing(metadata: Any = None) -> tuple[tuple[str, str | bytes], ...]:
    """``metadata`` with the trace and the credentials of this context; what it has is kept."""
    given = tuple(metadata or ())
    present = {key for key, _ in given}
    added: list[tuple[str, str | bytes]] = []
    span = trace.get_current_span().get_span_context()
    if span.is_valid and names.TRACEPARENT not in present:
        added.append((names.TRACEPARENT, names.format_traceparent(span)))
    if AUTHORIZATION not in present and WORKSPACE not in present:
        credentials = outgoing_credentials()
        if credentials.token:
            added.append((AUTHORIZATION, f"Bearer {credentials.token}"))
        elif credentials.workspace is not None:
            added.append((WORKSPACE, credentials.workspace))
    return (*given, *added)
