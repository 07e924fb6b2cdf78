"""Streams of answers: the requests of one stream, of which several are in flight at once.

ModelStreamInfer's answers come in the order of their requests, as Triton sends them; those of
decoupled models, which give several to a request, come as they are made. Requests of one sequence
run in order, whatever the model. Each answer carries its request's id, and whether it is the
request's last. An error is an answer, and the stream goes on.

REST's generate_stream is such a stream of one request, written otherwise.

Back-pressure: requests are not begun beyond a bound, so that the transport stops reading; and
a model generates its next answer when the last was taken by the transport.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol, Self

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.batch import Outcome
from lepton_inference.model import CallerGone, Model
from lepton_inference.open_inference import OpenInference, prepare
from lepton_inference.parameters import ParameterUnsupported
from lepton_inference.sequences import SequenceUser
from lepton_inference.serving import Admitted
from lepton_inference.shared_tensors import Placed, infer, ranked
from lepton_inference.signature import Checked, InferenceRequest
from lepton_inference.wire import empty_final, parse_request, response_of, varint
from lepton_mesh.errors import Internal, LeptonError

log = logging.getLogger(__name__)

MOST_IN_FLIGHT = 64
"""Requests of one stream."""
MOST_BYTES_IN_FLIGHT = 16 << 20
"""Of one stream's requests; one larger goes alone."""
_RESPONSE_TAG = b"\x12"  # ModelStreamInferResponse.infer_response: field 2

Send = Callable[[bytes], Awaitable[object]]


class Writer(Protocol):
    """How the answers of a stream are written."""

    def answer(
        self,
        model: Model,
        request_id: str,
        checked: Checked,
        outcome: Outcome,
        *,
        placed: Placed | None = None,
        final: bool,
    ) -> bytes:
        """An answer, and whether it is the last to its request.

        Raises LeptonError where it cannot be written.
        """
        ...

    def empty_final(self, model: Model, request_id: str) -> bytes:
        """What follows the last step's answer where a request wants that."""
        ...

    def failure(self, error: LeptonError, request_id: str) -> bytes:
        """The answer to a request that failed, its last."""
        ...


class Messages:
    """Writes serialized ModelStreamInferResponses."""

    def answer(
        self,
        model: Model,
        request_id: str,
        checked: Checked,
        outcome: Outcome,
        *,
        placed: Placed | None = None,
        final: bool,
    ) -> bytes:
        """See Writer."""
        return _wrapped(
            response_of(
                model,
                outcome,
                checked.rows,
                checked.outputs,
                request_id,
                placed=placed,
                final=final,
            )
        )

    def empty_final(self, model: Model, request_id: str) -> bytes:
        """See Writer."""
        return _wrapped(empty_final(model, request_id))

    def failure(self, error: LeptonError, request_id: str) -> bytes:
        """See Writer."""
        return pb.ModelStreamInferResponse(
            error_message=error.message,
            infer_response=pb.ModelInferResponse(id=request_id) if request_id else None,
        ).SerializeToString()


def _wrapped(response: bytes) -> bytes:
    """A ModelStreamInferResponse, from a serialized ModelInferResponse."""
    return _RESPONSE_TAG + varint(len(response)) + response


class RequestStream:
    """The requests of one stream; for one task.

    A context: left by an exception, which the loss of a client is, it drops what is in flight,
    and with it the sequences that the stream used.

    Args:
        protocol: What is asked.
        admitted: Who asks.
        send: Takes a written answer, and returns once there is room for the next. Whatever it
            raises means that the client is gone.
        settled: Called when a request was answered.
        writer: How answers are written; None for ModelStreamInfer's messages.
    """

    def __init__(
        self,
        protocol: OpenInference,
        admitted: Admitted,
        send: Send,
        settled: Callable[[], None] = lambda: None,
        *,
        writer: Writer | None = None,
    ) -> None:
        self._shared = protocol.shared
        self._admitted = admitted
        self._send_on = send
        self._settled = settled
        self._writer: Writer = writer or Messages()
        self._user = SequenceUser()
        self._tasks: dict[asyncio.Task[None], int] = {}
        self.bytes = 0
        """Of the requests in flight."""
        self._last: asyncio.Future[None] | None = None
        """Done once the last of the requests that are answered in order was."""
        self._sending = asyncio.Lock()
        self._sender: asyncio.Task[None] | None = None
        self._lost = False
        self._changed = asyncio.Event()

    @property
    def has_room(self) -> bool:
        """Whether another request may begin."""
        return not self._tasks or (
            len(self._tasks) < MOST_IN_FLIGHT and self.bytes < MOST_BYTES_IN_FLIGHT
        )

    async def room(self) -> None:
        """Returns once another request may begin; raises CallerGone."""
        await self._until(lambda: self.has_room)

    async def finish(self) -> None:
        """Returns once every request is answered; raises CallerGone."""
        await self._until(lambda: not self._tasks)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        if error is not None:
            await self._abort()

    async def _abort(self) -> None:
        self._lost = True
        for task in self._tasks:
            # A transport may answer a send that is on its way, and must find who asked.
            if task is not self._sender:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._user.abandon()

    def begin(self, body: bytes, seconds: float | None) -> None:
        """Begins a request.

        Args:
            body: A serialized ModelInferRequest.
            seconds: That the caller will wait for it; None for no bound.
        """
        message = pb.ModelInferRequest()
        prepared: tuple[Model, InferenceRequest] | LeptonError
        try:
            message = parse_request(body)
            prepared = prepare(self._admitted, message, seconds)
        except LeptonError as error:
            prepared = error
        self.ask(prepared, message.id, len(body))

    def ask(
        self, prepared: tuple[Model, InferenceRequest] | LeptonError, request_id: str, size: int
    ) -> None:
        """Begins a request that was taken apart already.

        Args:
            prepared: Who is asked what, or why nobody is.
            request_id: The request's.
            size: Bytes that it holds until it is answered.
        """
        if not isinstance(prepared, LeptonError):
            prepared[1].stream = self._user
        if not isinstance(prepared, LeptonError) and prepared[0].decoupled:
            answering = self._answer_often(*prepared)
        else:
            before, self._last = self._last, asyncio.get_running_loop().create_future()
            answering = self._answer_once(prepared, request_id, before, self._last)
        task = asyncio.create_task(answering)
        self._tasks[task] = size
        self.bytes += size
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.bytes -= self._tasks.pop(task)
        self._changed.set()
        self._settled()

    async def _until(self, reached: Callable[[], bool]) -> None:
        while not reached():
            self._changed.clear()
            await self._changed.wait()
        if self._lost:
            raise CallerGone

    async def _answer_once(
        self,
        prepared: tuple[Model, InferenceRequest] | LeptonError,
        request_id: str,
        before: asyncio.Future[None] | None,
        own: asyncio.Future[None],
    ) -> None:
        try:
            answer = await self._one_answer(prepared, request_id)
            if before is not None:
                await before
            await self._send(answer)
        finally:
            if not own.done():
                own.set_result(None)

    async def _one_answer(
        self, prepared: tuple[Model, InferenceRequest] | LeptonError, request_id: str
    ) -> bytes:
        if isinstance(prepared, LeptonError):
            return self._failure(prepared, request_id)
        model, request = prepared
        try:
            checked, outcome, placed = await infer(
                self._shared, self._admitted, model, request, None
            )
            return self._writer.answer(
                model, request_id, checked, outcome, placed=placed, final=True
            )
        except Exception as error:
            return self._failure(error, request_id)

    async def _answer_often(self, model: Model, request: InferenceRequest) -> None:
        extra = request.generation.empty_final
        sampler = self._admitted.workspace.tracing.sampler(request.model)
        try:
            _refuse_shared(request)
            async with contextlib.AsyncExitStack() as stack:
                # One span for all steps; the last one's moments are noted in it.
                traced = (
                    stack.enter_context(sampler.span(model.source))
                    if sampler is not None and sampler.due()
                    else None
                )
                steps = await stack.enter_async_context(
                    contextlib.aclosing(model.generate(request))
                )
                async for checked, outcome, final in steps:
                    answer = self._writer.answer(
                        model,
                        request.id,
                        checked,
                        await ranked(model, request, checked, outcome),
                        final=final and not extra,
                    )
                    await self._send(answer)
                    if traced is not None and final:
                        traced.answered(outcome)
            if extra:
                await self._send(self._writer.empty_final(model, request.id))
        except CallerGone:
            return
        except Exception as error:
            await self._send(self._failure(error, request.id))

    async def _send(self, answer: bytes) -> None:
        async with self._sending:
            if self._lost:
                raise CallerGone
            self._sender = asyncio.current_task()
            try:
                await self._send_on(answer)
            # Transports have errors of their own; all of them say that nobody is there.
            except Exception:
                self._lost = True
            finally:
                self._sender = None
        if self._lost:
            raise CallerGone

    def _failure(self, error: Exception, request_id: str) -> bytes:
        if not isinstance(error, LeptonError):
            log.error("call failed", extra={"method": "ModelStreamInfer"}, exc_info=error)
            error = Internal("internal error")
        return self._writer.failure(error, request_id)


def _refuse_shared(request: InferenceRequest) -> None:
    if request.shares_memory:
        raise ParameterUnsupported(
            "a model that answers a request many times takes its tensors in the message, not in "
            "shared memory",
            parameter="shared_memory_region",
        )
