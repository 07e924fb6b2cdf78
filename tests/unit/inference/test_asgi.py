"""The ASGI application without a server: what a lost caller leaves behind."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import numpy as np

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.asgi import Application
from lepton_inference.model import LoadedModel, ModelSource, unless_gone
from lepton_inference.open_inference import OpenInference
from lepton_inference.placement import Placement
from lepton_inference.serving import Admitted, Served, Serving, ServingState
from lepton_inference.settings import ModelSettings
from lepton_inference.signature import Signature
from lepton_inference.tensors import DATATYPES, TensorSpec
from lepton_mesh.caller import Caller, Role

SPEC = TensorSpec("x", DATATYPES["FP32"], (-1, 2))


class HeldSession:
    """Doubles its input, once it is let go; on a worker thread."""

    signature = Signature((SPEC,), (TensorSpec("y", DATATYPES["FP32"], (-1, 2)),), batched=True)
    placement = Placement("CPUExecutionProvider", threads=1, inline_rows=0)

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.rows: list[int] = []

    def join(self, columns: Any, rows: int, tails: Any) -> dict[str, Any]:
        return {"x": np.frombuffer(b"".join(columns[0]), np.float32).reshape(rows, *tails[0])}

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        self.begun.set()
        assert self.go_on.wait(10)
        self.rows.append(len(feeds["x"]))
        return [feeds["x"] * 2]

    def close(self) -> None:
        pass


class OpenGate:
    def __init__(self, serving: Serving) -> None:
        caller = Caller("user", "users/ada", "w", Role.ADMIN)
        self._admitted = Admitted(caller, serving.workspace("w"))

    def known(self, headers: dict[bytes, bytes]) -> Admitted | None:
        return self._admitted

    async def admit(self, method: str, headers: dict[bytes, bytes]) -> Admitted:
        return self._admitted


def framed_request() -> bytes:
    message = pb.ModelInferRequest(
        model_name="m",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 2])],
        raw_input_contents=[np.ones((1, 2), np.float32).tobytes()],
    ).SerializeToString()
    return b"\0" + len(message).to_bytes(4, "big") + message


class Exchange:
    """One request as a server hands it over."""

    path = "/inference.GRPCInferenceService/ModelInfer"
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/grpc"),)

    def __init__(self, body: bytes | None = None) -> None:
        self._body = framed_request() if body is None else body
        self.gone = False
        self.sent: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        if self.gone:
            return {"type": "http.disconnect"}
        body, self._body = self._body, b""
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: dict[str, Any]) -> None:
        if self.gone:
            raise OSError("client disconnected")
        self.sent.append(message)

    def scope(self) -> dict[str, Any]:
        return {
            "type": "http",
            "method": "POST",
            "path": self.path,
            "headers": list(self.headers),
        }


class RestExchange(Exchange):
    path = "/v2/models/m/infer"
    headers = ((b"content-type", b"application/json"),)

    def __init__(self) -> None:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 1]}
        super().__init__(json.dumps({"inputs": [tensor]}).encode())


class StreamExchange(Exchange):
    """A stream whose client has sent ``messages`` requests and is still there."""

    path = "/inference.GRPCInferenceService/ModelStreamInfer"

    def __init__(self, messages: int = 1, timeout: bytes = b"") -> None:
        super().__init__()
        self._left = messages
        self.left = asyncio.Event()
        self.answered = asyncio.Event()
        if timeout:
            self.headers = (*self.headers, (b"grpc-timeout", timeout))

    def leave(self) -> None:
        self.gone = True
        self.left.set()

    async def receive(self) -> dict[str, Any]:
        if self._left:
            self._left -= 1
            return {"type": "http.request", "body": framed_request(), "more_body": True}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        await super().send(message)
        if self.answers():
            self.answered.set()

    def answers(self) -> list[pb.ModelStreamInferResponse]:
        bodies = [message.get("body", b"")[5:] for message in self.sent]
        return [pb.ModelStreamInferResponse.FromString(body) for body in bodies if body]


async def test_a_lost_caller_frees_its_place_in_the_queue() -> None:
    """A request that waits behind a slow batch never runs once its caller is gone."""
    session, serving = HeldSession(), Serving()
    model = LoadedModel(ModelSource("m", "1", "test", ""), session, ModelSettings())
    serving.put("w", Served("m", ServingState.READY, models=[model], weights=[1]))
    application = Application(OpenInference(serving), OpenGate(serving), 1 << 20)

    def serve(exchange: Exchange) -> asyncio.Task[None]:
        return asyncio.create_task(application(exchange.scope(), exchange.receive, exchange.send))

    first, lost, last = Exchange(), Exchange(), Exchange()
    serving_first = serve(first)
    await asyncio.to_thread(session.begun.wait, 10)
    serving_lost, serving_last = serve(lost), serve(last)
    await asyncio.sleep(0)
    lost.gone = True
    await asyncio.wait_for(serving_lost, 5)  # while the first batch is still held
    session.go_on.set()
    await asyncio.gather(serving_first, serving_last)
    assert session.rows == [1, 1]
    assert lost.sent == []
    assert [message["type"] for message in last.sent] == [
        "http.response.start",
        "http.response.body",
        "http.response.trailers",
    ]
    await application.idle()
    await model.close()


class Held:
    """An application over one model that is held, and a request that holds it."""

    def __init__(self) -> None:
        self.session, self.serving = HeldSession(), Serving()
        self.model = LoadedModel(ModelSource("m", "1", "test", ""), self.session, ModelSettings())
        served = Served("m", ServingState.READY, models=[self.model], weights=[1])
        self.serving.put("w", served)
        self.application = Application(OpenInference(self.serving), OpenGate(self.serving), 1 << 20)

    def serve(self, exchange: Exchange) -> asyncio.Task[None]:
        return asyncio.create_task(
            self.application(exchange.scope(), exchange.receive, exchange.send)
        )

    async def occupied(self) -> asyncio.Task[None]:
        """A request that is being run until the session is let go."""
        running = self.serve(Exchange())
        await asyncio.to_thread(self.session.begun.wait, 10)
        return running

    async def queued(self) -> None:
        async with asyncio.timeout(10):
            # The batcher tells nobody that something waits.
            while not self.model.batcher.waiting:
                await asyncio.sleep(0)

    async def finish(self, running: asyncio.Task[None]) -> None:
        self.session.go_on.set()
        await running
        await self.application.idle()
        await self.model.close()


async def test_a_lost_stream_frees_its_place_in_the_queue() -> None:
    """Also where the client had sent its next requests already: none of them runs."""
    held = Held()
    running = await held.occupied()
    stream = StreamExchange(messages=3)
    serving = held.serve(stream)
    await held.queued()
    stream.leave()
    await asyncio.wait_for(serving, 5)  # while the first batch is still held
    await held.finish(running)
    assert held.session.rows == [1]


async def test_a_lost_rest_caller_frees_its_place_in_the_queue() -> None:
    """REST is no different."""
    held = Held()
    running = await held.occupied()
    lost = RestExchange()
    serving = held.serve(lost)
    await held.queued()
    lost.gone = True
    await asyncio.wait_for(serving, 5)
    await held.finish(running)
    assert held.session.rows == [1]
    assert lost.sent == []


async def test_a_stream_has_its_deadline() -> None:
    """What waits beyond grpc-timeout is dropped before it costs compute."""
    held = Held()
    running = await held.occupied()
    stream = StreamExchange(timeout=b"1m")
    serving = held.serve(stream)
    await held.queued()
    await asyncio.sleep(0.01)  # the deadline itself, not a wait for something to happen
    held.session.go_on.set()
    await asyncio.wait_for(stream.answered.wait(), 5)
    assert "deadline" in stream.answers()[0].error_message
    stream.leave()
    await asyncio.wait_for(serving, 5)
    await held.finish(running)
    assert held.session.rows == [1]


class Pieces(RestExchange):
    """A REST request whose body comes in two pieces, the second when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = asyncio.Event(), asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if not self.begun.is_set():
            self.begun.set()
            return {"type": "http.request", "body": b" " * 600, "more_body": True}
        await self.go_on.wait()
        return await super().receive()


async def test_bodies_beyond_what_may_be_held_are_refused() -> None:
    """The second caller is told to come again; the first is answered, and gives its room back."""
    held = Held()
    application = held.application = Application(
        OpenInference(held.serving), OpenGate(held.serving), 1 << 20, max_bytes_in_flight=1000
    )
    held.session.go_on.set()
    first, second, third = Pieces(), Pieces(), Pieces()
    serving = held.serve(first)
    await first.begun.wait()
    await held.serve(second)
    assert second.sent[0]["status"] == 429
    assert json.loads(second.sent[1]["body"])["reason"] == "BODIES_TOO_MANY"
    first.go_on.set()
    await serving
    assert first.sent[0]["status"] == 200
    third.go_on.set()
    await held.serve(third)
    assert third.sent[0]["status"] == 200
    assert application._budget.held == 0
    await held.model.close()


async def test_json_that_would_stop_everybody_is_refused() -> None:
    """With the remedy in the message."""
    held = Held()
    held.application = Application(
        OpenInference(held.serving), OpenGate(held.serving), 1 << 20, max_json_bytes=16
    )
    exchange = RestExchange()
    await held.serve(exchange)
    answer = json.loads(exchange.sent[1]["body"])
    assert (exchange.sent[0]["status"], answer["reason"]) == (400, "JSON_TOO_LARGE")
    assert "binary_data_size" in answer["error"]
    await held.model.close()


async def test_a_question_for_the_caller_is_never_cut_off() -> None:
    """An answer that comes while the server is asked lets it finish, and asks no more."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    asked, reply, ended = asyncio.Event(), loop.create_future(), asyncio.Event()
    questions = []

    async def gone() -> bool:
        questions.append(1)
        asked.set()
        try:
            return bool(await reply)
        finally:
            ended.set()

    waiting = asyncio.create_task(unless_gone(future, gone))
    await asyncio.wait_for(asked.wait(), 5)
    future.set_result("answer")
    assert await waiting == "answer"
    await asyncio.sleep(0)
    assert not reply.cancelled()
    reply.set_result(True)
    await asyncio.wait_for(ended.wait(), 5)
    assert len(questions) == 1
