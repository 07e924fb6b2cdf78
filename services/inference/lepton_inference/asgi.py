"""The Open Inference Protocol as an ASGI application: gRPC and REST on one port.

The way of ModelInfer is written for speed (figures in the design, section 3): one pass over
the headers, one dictionary lookup for what the request means, one wait for its batch, and
three messages of which two are constants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from functools import partial

from opentelemetry.trace import SpanKind

from lepton_inference.asgi_events import serve_events
from lepton_inference.asgi_messages import (
    GRPC_OK,
    GRPC_START,
    Call,
    Headers,
    Receive,
    Scope,
    Send,
    client_gone,
    grpc_timeout,
    internal,
    send_grpc_error,
    whole_body,
)
from lepton_inference.asgi_stream import serve_stream
from lepton_inference.batch import Outcome
from lepton_inference.batcher import NO_DEADLINE
from lepton_inference.bounds import MAX_PARSED_BYTES
from lepton_inference.budget import PUBLIC_BODY_BYTES, Budget, Held
from lepton_inference.framing import too_large, unframe
from lepton_inference.gate import PUBLIC_PATHS, Gate
from lepton_inference.model import CallerGone, unless_gone
from lepton_inference.open_inference import HEALTH_SERVICE, SERVICES, OpenInference
from lepton_inference.plans import Plan
from lepton_inference.rest import Rest
from lepton_inference.rest_generate import EventsAsked
from lepton_inference.rest_plans import RestPlan
from lepton_inference.serving import Admitted
from lepton_inference.wire import frame
from lepton_mesh.errors import LeptonError
from lepton_mesh.telemetry import Telemetry, parse_traceparent

_MODEL_INFER = f"/{SERVICES[0]}/ModelInfer"


class Application:
    """Serves HTTP scopes; lifespan is the host's business.

    Args:
        protocol: What is served.
        gate: Who may call.
        max_message_bytes: The largest request taken.
        telemetry: Where the spans of sampled traces go; None for nowhere.
        max_json_bytes: The largest JSON of a REST request.
        max_bytes_in_flight: Bytes of bodies in several pieces that are held at once.
    """

    def __init__(
        self,
        protocol: OpenInference,
        gate: Gate,
        max_message_bytes: int,
        telemetry: Telemetry | None = None,
        *,
        max_json_bytes: int = 8 << 20,
        max_bytes_in_flight: int = 256 << 20,
    ) -> None:
        self._telemetry = telemetry
        self._protocol = protocol
        self._gate = gate
        self._limit = max_message_bytes
        self._rest = Rest(protocol, gate, max_message_bytes, max_json_bytes)
        self._budget = Budget(max_bytes_in_flight)
        self._infer_paths = frozenset(f"/{service}/ModelInfer" for service in SERVICES)
        self._stream_paths = frozenset(f"/{service}/ModelStreamInfer" for service in SERVICES)
        self._health_path = f"/{HEALTH_SERVICE}/Check"

        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def idle(self) -> None:
        """Returns once no request is being answered."""
        while self._running:
            self._idle.clear()
            await self._idle.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        self._running += 1
        headers: Headers = dict(scope["headers"])
        try:
            traceparent = headers.get(b"traceparent")
            if self._telemetry is None or traceparent is None:
                await self._serve(scope, headers, receive, send)
            else:
                # A request that nobody traces, which is nearly every one, pays nothing.
                parent = parse_traceparent(traceparent.decode("latin-1"))
                with self._telemetry.span(scope["path"], parent=parent, kind=SpanKind.SERVER):
                    await self._serve(scope, headers, receive, send)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def _serve(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path not in self._infer_paths:
            await self._serve_other(path, scope, headers, receive, send)
            return
        held: Held | None = None
        try:
            admitted = self._gate.known(headers) or await self._gate.admit(path, headers)
            message = await receive()
            # A chunk without a body, rather than a disconnect, is how a lost client shows.
            body: bytes = message.get("body", b"")
            if message.get("more_body"):
                held = Held(self._budget)
                body = await whole_body(body, receive, held, self._limit)
            timeout = grpc_timeout(headers)
            plan = admitted.workspace.plans.find(body)
            if plan is not None:
                answer = plan.response(await _outcome(plan, body, timeout, receive))
            else:
                answer = await self._infer(admitted, headers, body, timeout, receive)
        except CallerGone:
            return
        except LeptonError as error:
            await send_grpc_error(send, error)
            return
        except Exception as error:
            await send_grpc_error(send, internal(error, path))
            return
        finally:
            if held is not None:
                held.release()
        try:
            await send(GRPC_START)
            await send({"type": "http.response.body", "body": answer})
            await send(GRPC_OK)
        except OSError:
            return  # the client is gone, and with it everything that was kept for it

    async def _infer(
        self,
        admitted: Admitted,
        headers: Headers,
        body: bytes,
        seconds: float | None,
        receive: Receive,
    ) -> bytes:
        """The framed answer to a framed ModelInferRequest of which there is no plan."""
        gone = partial(client_gone, receive)
        if len(body) > self._limit:
            raise too_large(self._limit)
        encoding = headers.get(b"grpc-encoding", b"")
        if body[:1] == b"\1":
            # zlib lets others run meanwhile, and a little may become much.
            content = await asyncio.to_thread(unframe, body, encoding, self._limit)
            return frame(await self._protocol.infer(admitted, content, seconds, gone))
        unframe(body, encoding, self._limit)
        return await self._protocol.infer_framed(admitted, body, seconds, gone)

    async def _serve_other(
        self, path: str, scope: Scope, headers: Headers, receive: Receive, send: Send
    ) -> None:
        try:
            if not headers.get(b"content-type", b"").startswith(b"application/grpc"):
                await self._serve_rest(path, scope, headers, receive, send)
            elif path in self._stream_paths:
                await self._serve_stream(path, headers, receive, send)
            else:
                await self._serve_unary(path, headers, receive, send)
        except OSError:
            return  # the client is gone

    async def _serve_unary(self, path: str, headers: Headers, receive: Receive, send: Send) -> None:
        held = Held(self._budget)
        try:
            admitted = await self._gate.admit(path, headers)
            # Nothing of these is raw tensors.
            most = min(self._limit, MAX_PARSED_BYTES)
            limit = PUBLIC_BODY_BYTES if path in PUBLIC_PATHS else most
            body = await whole_body(b"", receive, held, limit)
            content = unframe(body, headers.get(b"grpc-encoding", b""), most)
            if path == self._health_path:
                answer = self._protocol.check_health(content)
            else:
                method = path.rpartition("/")[2]
                answer = await self._protocol.call(method, admitted, content, grpc_timeout(headers))
        except LeptonError as error:
            await send_grpc_error(send, error)
            return
        except Exception as error:
            await send_grpc_error(send, internal(error, path))
            return
        finally:
            held.release()
        await send(GRPC_START)
        await send({"type": "http.response.body", "body": frame(answer)})
        await send(GRPC_OK)

    async def _serve_stream(
        self, path: str, headers: Headers, receive: Receive, send: Send
    ) -> None:
        try:
            admitted = await self._gate.admit(path, headers)
        except LeptonError as error:
            await send_grpc_error(send, error)
            return
        held = Held(self._budget)
        try:
            call = Call(path, headers, receive, send)
            await serve_stream(call, self._protocol, admitted, held, self._limit)
        finally:
            held.release()

    async def _serve_rest(
        self, path: str, scope: Scope, headers: Headers, receive: Receive, send: Send
    ) -> None:
        held = Held(self._budget)
        gone = partial(client_gone, receive)
        plan = None
        try:
            if scope["method"] == "POST":
                # Every path that takes a body is for callers who may infer: who may not is
                # told so before a byte is kept.
                admitted = self._gate.known(headers) or await self._gate.admit(
                    _MODEL_INFER, headers
                )
                body = await whole_body(b"", receive, held, self._limit)
                plan = admitted.workspace.rest_plans.find(path, headers, body)
            else:
                body = await whole_body(b"", receive, held, PUBLIC_BODY_BYTES)
            if plan is None:
                answered = await self._rest.answer(scope["method"], path, headers, body, gone)
                if isinstance(answered, EventsAsked):
                    await serve_events(answered, self._protocol, send, gone)
                    return
                status, answer_headers, answer = answered
            else:
                outcome = await _outcome(plan, body, None, receive)
                status, answer_headers, answer = 200, plan.headers, plan.response(outcome)
        except CallerGone:
            return
        except LeptonError as error:
            status, answer_headers, answer = self._rest.error(error)
        except Exception as error:
            status, answer_headers, answer = self._rest.error(internal(error, path))
        finally:
            held.release()
        await send({"type": "http.response.start", "status": status, "headers": answer_headers})
        await send({"type": "http.response.body", "body": answer})


def _outcome(
    plan: Plan | RestPlan, body: bytes, seconds: float | None, receive: Receive
) -> Awaitable[Outcome]:
    """What will come of a request that was seen before, but for its tensor."""
    model = plan.model
    batcher = model.batcher
    deadline = NO_DEADLINE if seconds is None else batcher.now() + seconds
    raw = memoryview(body)[plan.start :]
    future = batcher.submit((raw,), plan.rows, plan.tails, deadline)
    outcome: Awaitable[Outcome] = future
    if plan.rows > model.inline_rows:
        outcome = unless_gone(future, partial(client_gone, receive))
    # Each coroutine is a few percent of what all of this takes: most requests do without.
    sampled = plan.sampler is not None and plan.sampler.due()
    if sampled or model.shadow is not None:
        return _observed(plan, raw, outcome, sampled=sampled)
    return outcome


async def _observed(
    plan: Plan | RestPlan, raw: memoryview, answer: Awaitable[Outcome], *, sampled: bool
) -> Outcome:
    """The outcome, told to those who look on: a trace, a shadow."""
    if plan.sampler is None or not sampled:
        outcome = await answer
    else:
        with plan.sampler.span(plan.model.source) as traced:
            outcome = await answer
            traced.answered(outcome)
    if plan.model.shadow is not None:
        plan.model.shadow.offer((raw,), plan.rows, plan.tails, outcome)
    return outcome
