"""Calls with a stream on either side: one instance each, counted until they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Generator
from typing import Any, cast

import grpc

from lepton_mesh.balancer.endpoint import FAILURES, Endpoint
from lepton_mesh.balancer.method import CallOptions, Method, connection_closed
from lepton_mesh.connect import being_cancelled


class UnaryStream:
    def __init__(self, method: Method) -> None:
        self._method = method

    def __call__(
        self,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.UnaryStreamCall[Any, Any]:
        options = CallOptions.of(
            timeout,
            wait_for_ready,
            metadata=metadata,
            credentials=credentials,
            compression=compression,
        )
        call = BalancedStreamCall("unary_stream", self._method, request, options)
        return cast("grpc.aio.UnaryStreamCall[Any, Any]", call)


class StreamUnary:
    def __init__(self, method: Method) -> None:
        self._method = method

    def __call__(  # noqa: PLR0917 - gRPC's signature
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.StreamUnaryCall[Any, Any]:
        options = CallOptions.of(
            timeout,
            wait_for_ready,
            metadata=metadata,
            credentials=credentials,
            compression=compression,
        )
        call = BalancedStreamCall("stream_unary", self._method, request_iterator, options)
        return cast("grpc.aio.StreamUnaryCall[Any, Any]", call)


class StreamStream:
    def __init__(self, method: Method) -> None:
        self._method = method

    def __call__(  # noqa: PLR0917 - gRPC's signature
        self,
        request_iterator: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> grpc.aio.StreamStreamCall[Any, Any]:
        options = CallOptions.of(
            timeout,
            wait_for_ready,
            metadata=metadata,
            credentials=credentials,
            compression=compression,
        )
        call = BalancedStreamCall("stream_stream", self._method, request_iterator, options)
        return cast("grpc.aio.StreamStreamCall[Any, Any]", call)


class BalancedStreamCall:
    """The call object of a streaming method; the instance is chosen in the background.

    It has the methods of gRPC's call objects, all of the three arities', and is
    none of them, for the reason given at ``BalancedUnaryCall``. A call with one
    request to an idempotent method is begun again elsewhere when its instance
    goes away before the first message; nothing else is repeated.
    """

    def __init__(self, arity: str, method: Method, request: Any, options: CallOptions) -> None:
        self._arity = arity
        self._method = method
        self._request = request
        self._options = options
        self._tried: set[Endpoint] = set()
        self._delivered = False
        self._cancelled = False
        self._endpoint: Endpoint | None = None
        self._opening: asyncio.Task[Any] = asyncio.ensure_future(self._open())

    async def _open(self) -> Any:
        method = self._method
        until = self._options.patience(method.wait_seconds)
        endpoint = await method.pool.take(until, self._tried)
        self._tried.add(endpoint)
        self._endpoint = endpoint
        invoke = endpoint.method(self._arity, method.path, method.serialize, method.deserialize)
        endpoint.begin()
        try:
            call = invoke(self._request, timeout=self._options.remaining(), **self._options.passed)
            # The callback holds the endpoint and not this object, so that a call
            # which its caller drops can be collected (see __del__).
            call.add_done_callback(lambda _: endpoint.end())
        except BaseException:
            endpoint.end()
            raise
        return call

    async def _call(self) -> Any:
        """gRPC's own call, once the instance is chosen."""
        return await asyncio.shield(self._opening)

    async def read(self) -> Any:
        """The next message, ``grpc.aio.EOF`` after the last."""
        while True:
            call = await self._call()
            try:
                message = await self._guard(call.read())
            except grpc.aio.AioRpcError as error:
                if not self._begin_again(error):
                    raise
                continue
            if not self._delivered:
                self._delivered = True
                self._succeeded()
            return message

    async def write(self, request: Any) -> None:
        await self._guard((await self._call()).write(request))

    async def done_writing(self) -> None:
        await self._guard((await self._call()).done_writing())

    async def __aiter__(self) -> AsyncIterator[Any]:
        while (message := await self.read()) is not grpc.aio.EOF:
            yield message

    def __await__(self) -> Generator[Any, None, Any]:
        return self._response().__await__()

    def __del__(self) -> None:
        # gRPC keeps a call that has a done callback: nobody else would end this one.
        opening = getattr(self, "_opening", None)
        if opening is None or opening.get_loop().is_closed():
            return
        call = self._opened()
        if call is not None and not call.done():
            call.cancel()

    def cancel(self) -> bool:
        self._cancelled = True
        call = self._opened()
        return self._opening.cancel() if call is None else bool(call.cancel())

    def cancelled(self) -> bool:
        call = self._opened()
        return self._opening.cancelled() if call is None else bool(call.cancelled())

    def done(self) -> bool:
        call = self._opened()
        return self._opening.done() if call is None else bool(call.done())

    def time_remaining(self) -> float | None:
        return self._options.remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        def opened(opening: asyncio.Task[Any]) -> None:
            if opening.cancelled() or opening.exception() is not None:
                callback(self)
            else:
                opening.result().add_done_callback(callback)

        self._opening.add_done_callback(opened)

    async def initial_metadata(self) -> Any:
        return await (await self._call()).initial_metadata()

    async def trailing_metadata(self) -> Any:
        return await (await self._call()).trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        try:
            call = await self._call()
        except grpc.aio.AioRpcError as error:
            return error.code()
        code: grpc.StatusCode = await call.code()
        return code

    async def details(self) -> str:
        try:
            call = await self._call()
        except grpc.aio.AioRpcError as error:
            return error.details() or ""
        details: str = await call.details()
        return details

    async def wait_for_connection(self) -> None:
        await (await self._call()).wait_for_connection()

    async def _response(self) -> Any:
        call = await self._call()
        response = await self._guard(call)
        self._succeeded()
        return response

    def _succeeded(self) -> None:
        self._method.budget.earn()
        if self._endpoint is not None:
            self._endpoint.works()

    async def _guard(self, awaitable: Any) -> Any:
        """Awaits an operation of gRPC's call and tells the endpoint how it went."""
        endpoint = self._endpoint
        try:
            return await awaitable
        except grpc.aio.AioRpcError as error:
            if endpoint is not None and error.code() in FAILURES:
                endpoint.failed()
            raise
        except asyncio.CancelledError:
            if being_cancelled() or self._cancelled or endpoint is None:
                raise
            if not endpoint.draining:  # the server itself ended the call with CANCELLED
                raise
            raise connection_closed(endpoint) from None

    def _begin_again(self, error: grpc.aio.AioRpcError) -> bool:
        if self._delivered or self._arity != "unary_stream":
            return False
        if not self._method.may_repeat(error, len(self._tried)):
            return False
        self._opening = asyncio.ensure_future(self._open())
        return True

    def _opened(self) -> Any:
        """gRPC's own call, None while or unless there is one."""
        opening = self._opening
        if not opening.done() or opening.cancelled() or opening.exception() is not None:
            return None
        return opening.result()
