"""Calls of one request and one response: with retries, and with hedges for reads."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Generator
from typing import Any, cast

import grpc

from lepton_mesh.balancer.endpoint import Endpoint
from lepton_mesh.balancer.method import BACKOFF_SECONDS, CallOptions, Method, connection_closed
from lepton_mesh.connect import being_cancelled

MAX_HEDGES = 2


class UnaryUnary:
    """What a stub's method is on a balanced channel."""

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
    ) -> grpc.aio.UnaryUnaryCall[Any, Any]:
        options = CallOptions.of(
            timeout,
            wait_for_ready,
            metadata=metadata,
            credentials=credentials,
            compression=compression,
        )
        sent = SentUnary(self._method, request, options)
        work = sent.hedged() if self._method.hedged else sent.with_retries()
        return cast("grpc.aio.UnaryUnaryCall[Any, Any]", BalancedUnaryCall(work, sent))


class SentUnary:
    """One call of the caller's: the attempts that are made for it."""

    def __init__(self, method: Method, request: Any, options: CallOptions) -> None:
        self.options = options
        self.answer: grpc.aio.UnaryUnaryCall[Any, Any] | None = None
        """The attempt whose answer is the caller's."""
        self._method = method
        self._request = request
        self._tried: set[Endpoint] = set()

    async def with_retries(self) -> Any:
        """The response, after repeating what may be repeated."""
        method = self._method
        attempts = 0
        while True:
            until = self.options.patience(method.wait_seconds)
            endpoint = await method.pool.take(until, self._tried)
            if endpoint in self._tried:  # there is no other: give it time to come back
                pause = BACKOFF_SECONDS * 2**attempts
                await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter is no secret
            self._tried.add(endpoint)
            attempts += 1
            try:
                return await self._attempt(endpoint)
            except grpc.aio.AioRpcError as error:
                if not method.may_repeat(error, attempts):
                    raise

    async def hedged(self) -> Any:
        """The first answer of several instances, asked one after the other while none answers."""
        method = self._method
        running = {asyncio.ensure_future(self.with_retries())}
        hedges = 0
        try:
            while True:
                patience = method.delay.seconds if hedges < MAX_HEDGES else None
                done, _ = await asyncio.wait(
                    running, timeout=patience, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:
                    running.discard(task)
                    error = task.exception()
                    if error is None:
                        return task.result()
                    # Any answer of the application's is the answer; an instance
                    # that is gone is not, while another is still asked.
                    if not running or not _is_unavailable(error):
                        raise error
                if not done and method.pool.pick(self._tried, strict=True) and method.budget.take():
                    hedges += 1
                    running.add(asyncio.ensure_future(self.with_retries()))
        finally:
            for task in running:
                task.cancel()

    async def _attempt(self, endpoint: Endpoint) -> Any:
        method = self._method
        loop = asyncio.get_running_loop()
        invoke = endpoint.method("unary_unary", method.path, method.serialize, method.deserialize)
        call = invoke(self._request, timeout=self.options.remaining(), **self.options.passed)
        started = loop.time()
        endpoint.begin()
        try:
            response = await call
        except grpc.aio.AioRpcError as error:
            self.answer = call
            endpoint.refused(error.code(), loop.time() - started)
            raise
        except asyncio.CancelledError:
            endpoint.kept_waiting(loop.time() - started)
            if being_cancelled():
                raise
            raise connection_closed(endpoint) from None
        finally:
            endpoint.end()
        elapsed = loop.time() - started
        endpoint.answered(elapsed)
        method.budget.earn()
        if method.hedged:
            method.delay.observe(elapsed)
        self.answer = call
        return response


class BalancedUnaryCall:
    """The call object that a stub's method returns, over however many attempts.

    It has the methods of ``grpc.aio.UnaryUnaryCall`` but is none: closing any
    channel in the process searches the tasks for instances of that class and
    fails on one that is not gRPC's own.
    """

    def __init__(self, work: Coroutine[Any, Any, Any], sent: SentUnary) -> None:
        self._sent = sent
        self._task: asyncio.Task[Any] = asyncio.ensure_future(work)

    def __await__(self) -> Generator[Any, None, Any]:
        return self._task.__await__()

    def cancel(self) -> bool:
        return self._task.cancel()

    def cancelled(self) -> bool:
        return self._task.cancelled()

    def done(self) -> bool:
        return self._task.done()

    def time_remaining(self) -> float | None:
        return self._sent.options.remaining()

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._task.add_done_callback(lambda _: callback(self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        await self._end()
        answer = self._sent.answer
        return grpc.aio.Metadata() if answer is None else await answer.initial_metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        error = await self._end()
        if error is not None:
            return error.trailing_metadata() or grpc.aio.Metadata()
        answer = self._sent.answer
        return grpc.aio.Metadata() if answer is None else await answer.trailing_metadata()

    async def code(self) -> grpc.StatusCode:
        error = await self._end()
        if self._task.cancelled():
            return grpc.StatusCode.CANCELLED
        return grpc.StatusCode.OK if error is None else error.code()

    async def details(self) -> str:
        error = await self._end()
        return "" if error is None else error.details() or ""

    async def wait_for_connection(self) -> None:
        await self._end()

    async def _end(self) -> grpc.aio.AioRpcError | None:
        """Waits for the outcome; the error, if gRPC's."""
        await asyncio.wait({self._task})
        if self._task.cancelled():
            return None
        error = self._task.exception()
        if error is not None and not isinstance(error, grpc.aio.AioRpcError):
            raise error
        return error


def _is_unavailable(error: BaseException) -> bool:
    return isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.UNAVAILABLE
