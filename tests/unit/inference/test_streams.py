"""Streams: order, several requests in flight, back-pressure, and what a lost client leaves."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.adapters import onnx_runtime
from lepton_inference.classification import classified
from lepton_inference.model import CallerGone, LoadedModel, ModelSource
from lepton_inference.open_inference import OpenInference
from lepton_inference.serving import Admitted, Served, Serving, ServingState
from lepton_inference.settings import BatchingSettings, Link, ModelSettings, SequenceSettings
from lepton_inference.streams import MOST_BYTES_IN_FLIGHT, MOST_IN_FLIGHT, RequestStream
from lepton_mesh.caller import Caller, Role
from tests.inference_models import fibonacci
from tests.unit.inference.test_asgi import HeldSession
from tests.unit.inference.test_tracing import Spans

FIBONACCI = SequenceSettings(states=(Link("after", "before"),), feed_back=(Link("y", "x"),))


class Client:
    """Takes answers, unless it was told not to; may be gone."""

    def __init__(self) -> None:
        self.answers: list[pb.ModelStreamInferResponse] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.gone = False

    async def take(self, answer: bytes) -> None:
        await self.reads.wait()
        if self.gone:
            raise OSError
        self.answers.append(pb.ModelStreamInferResponse.FromString(answer))

    @property
    def ids(self) -> list[str]:
        return [answer.infer_response.id for answer in self.answers]


class Server:
    """``held`` doubles rows once it is let go; ``fibonacci`` generates, ``single`` does not."""

    def __init__(self, directory: Path) -> None:
        self.spans = Spans()
        serving = Serving(self.spans.telemetry)
        self.session = HeldSession()
        self.held = LoadedModel(
            ModelSource("held", "1", "test", ""), self.session, ModelSettings(BatchingSettings())
        )
        path = directory / "fibonacci.onnx"
        path.write_bytes(fibonacci())
        self.models = {"held": self.held}
        for name, feed_back in (("fibonacci", FIBONACCI.feed_back), ("single", ())):
            sequences = dataclasses.replace(FIBONACCI, feed_back=feed_back)
            settings = ModelSettings(sequences=sequences)
            self.models[name] = LoadedModel(
                ModelSource(name, "1", "test", ""), onnx_runtime.examine(path, settings), settings
            )
        for name, model in self.models.items():
            served = Served(name, ServingState.READY, models=[model], weights=[1])
            serving.put("w", served)
        self.protocol = OpenInference(serving)
        caller = Caller("user", "users/ada", "w", Role.ADMIN)
        self.admitted = Admitted(caller, serving.workspace("w"))

    async def close(self) -> None:
        self.session.go_on.set()
        for model in self.models.values():
            await model.close()

    def live(self, name: str) -> int:
        sequences = self.models[name].sequences
        assert sequences is not None
        return sequences.live


@pytest.fixture
async def server(tmp_path: Path) -> Any:
    server = Server(tmp_path)
    yield server
    await server.close()


def ask(model: str, id_: str = "", **parameters: str | int | bool) -> bytes:
    value = np.ones((1, 2), np.float32) if model == "held" else np.ones((1, 1), np.int64)
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param"}
    return pb.ModelInferRequest(
        model_name=model,
        id=id_,
        inputs=[
            pb.ModelInferRequest.InferInputTensor(
                name="x", datatype="FP32" if model == "held" else "INT64", shape=value.shape
            )
        ],
        parameters={
            name: pb.InferParameter(**{kinds[type(each)]: each})
            for name, each in parameters.items()
        },
        raw_input_contents=[value.tobytes()],
    ).SerializeToString()


def whole(id_: int = 1) -> dict[str, Any]:
    return {"sequence_id": id_, "sequence_start": True, "sequence_end": True}


async def test_answers_come_in_the_order_of_the_requests(server: Server) -> None:
    """Errors too, whatever is ready first; a decoupled model's come when they are there."""
    client = Client()
    async with RequestStream(server.protocol, server.admitted, client.take) as stream:
        stream.begin(ask("held", "slow"), None)
        stream.begin(ask("nobody", "error"), None)
        stream.begin(ask("single", "quick", **whole()), None)
        stream.begin(ask("fibonacci", "many", max_steps=2, **whole(2)), None)
        async with asyncio.timeout(10):
            while len(client.answers) < 2:
                await asyncio.sleep(0)
        assert client.ids == ["many", "many"]
        server.session.go_on.set()
        await stream.finish()
    assert client.ids[2:] == ["slow", "error", "quick"]
    assert "nobody" in client.answers[3].error_message
    finals = [
        answer.infer_response.parameters["triton_final_response"].bool_param
        for answer in client.answers
    ]
    assert finals == [False, True, True, False, True]


async def test_requests_of_a_sequence_may_be_sent_ahead(server: Server) -> None:
    """They run in order."""
    client = Client()
    async with RequestStream(server.protocol, server.admitted, client.take) as stream:
        for number in range(8):
            start, end = number == 0, number == 7
            stream.begin(ask("single", sequence_id=1, sequence_start=start, sequence_end=end), None)
        await stream.finish()
    numbers = [
        int.from_bytes(answer.infer_response.raw_output_contents[0], "little")
        for answer in client.answers
    ]
    assert numbers == [1] + [2] * 7  # the state is the input before
    assert server.live("single") == 0


async def test_requests_in_flight_are_bounded(server: Server) -> None:
    """Beyond it the stream is read no further until one is answered."""
    client = Client()
    async with RequestStream(server.protocol, server.admitted, client.take) as stream:
        for _ in range(MOST_IN_FLIGHT):
            assert stream.has_room
            stream.begin(ask("held"), None)
        assert not stream.has_room
        room = asyncio.create_task(stream.room())
        server.session.go_on.set()
        await asyncio.wait_for(room, 10)
        await stream.finish()
    assert len(client.answers) == MOST_IN_FLIGHT


async def test_bytes_in_flight_are_bounded(server: Server) -> None:
    """A large request goes alone."""
    async with RequestStream(server.protocol, server.admitted, Client().take) as stream:
        stream.begin(bytes(MOST_BYTES_IN_FLIGHT), None)
        assert not stream.has_room
        await stream.room()
        assert stream.bytes == 0
        await stream.finish()


async def test_who_does_not_read_stops_the_model(server: Server) -> None:
    """One answer ahead of the client, and no more; it goes on when the client does."""
    client = Client()
    client.reads.clear()
    fibonacci = server.models["fibonacci"]
    async with RequestStream(server.protocol, server.admitted, client.take) as stream:
        stream.begin(ask("fibonacci", max_steps=100, **whole()), None)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert fibonacci.statistics.executions == 1
        client.reads.set()
        await stream.finish()
    assert len(client.answers) == fibonacci.statistics.executions == 100


async def test_a_lost_client_leaves_nothing_behind(server: Server) -> None:
    """What is queued leaves the queue, generation stops, and sequences are forgotten."""
    client = Client()
    occupied = asyncio.ensure_future(
        server.held.batcher.submit((np.ones((1, 2), np.float32).tobytes(),), 1, ((2,),))
    )
    await asyncio.to_thread(server.session.begun.wait, 10)
    with pytest.raises(CallerGone):
        async with RequestStream(server.protocol, server.admitted, client.take) as stream:
            stream.begin(ask("single", sequence_id=5, sequence_start=True), None)
            await stream.finish()
            assert server.live("single") == 1
            stream.begin(ask("fibonacci", **whole()), None)
            stream.begin(ask("held"), None)
            async with asyncio.timeout(10):
                while len(client.answers) < 5:
                    await asyncio.sleep(0)
            raise CallerGone
    ran = server.models["fibonacci"].statistics.executions
    assert (server.live("single"), server.live("fibonacci")) == (0, 0)
    server.session.go_on.set()
    await occupied
    await server.held.close()
    assert server.session.rows == [1]
    assert server.models["fibonacci"].statistics.executions == ran


async def test_a_client_that_cannot_be_reached_is_gone(server: Server) -> None:
    """The first send that fails says so; nothing more is generated or sent."""
    client = Client()
    client.gone = True
    with pytest.raises(CallerGone):
        async with RequestStream(server.protocol, server.admitted, client.take) as stream:
            stream.begin(ask("fibonacci", **whole()), None)
            await stream.finish()
    assert server.models["fibonacci"].statistics.executions == 1
    assert server.live("fibonacci") == 0


async def test_a_stream_that_is_closed_in_order_leaves_its_sequences(server: Server) -> None:
    """Its client may go on with another."""
    async with RequestStream(server.protocol, server.admitted, Client().take) as stream:
        stream.begin(ask("single", sequence_id=5, sequence_start=True), None)
        await stream.finish()
    assert server.live("single") == 1


async def test_a_generation_is_traced_as_one_request(server: Server) -> None:
    """From its first step to the last, whose moments are noted."""
    server.admitted.workspace.tracing.change(
        "", {"trace_level": ["TIMESTAMPS"], "trace_rate": ["1"]}
    )
    async with RequestStream(server.protocol, server.admitted, Client().take) as stream:
        stream.begin(ask("fibonacci", max_steps=3, **whole()), None)
        await stream.finish()
    (span,) = server.spans.all()
    assert dict(span.attributes or {})["lepton.model"] == "fibonacci"
    assert [event.name for event in span.events] == [
        "COMPUTE_START",
        "COMPUTE_INPUT_END",
        "COMPUTE_OUTPUT_START",
    ]


async def test_an_error_in_the_middle_ends_the_request_alone(server: Server) -> None:
    """It carries the request's id, and the stream goes on."""
    client = Client()
    async with RequestStream(server.protocol, server.admitted, client.take) as stream:
        stream.begin(ask("fibonacci", "bad", max_steps=5000, **whole()), None)
        stream.begin(b"\xff", None)
        stream.begin(ask("fibonacci", "good", max_steps=1, **whole()), None)
        await stream.finish()
    told = {answer.infer_response.id: answer.error_message for answer in client.answers}
    assert "max_steps" in told["bad"]
    assert "not a ModelInferRequest" in told[""]
    assert told["good"] == ""


@pytest.mark.parametrize("model", ["single", "fibonacci"])
async def test_large_outputs_are_ranked_on_another_thread(
    server: Server, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of models that answer once and of those that answer often."""
    threads: list[int] = []

    def spy(*arguments: Any) -> Any:
        threads.append(threading.get_ident())
        return classified(*arguments)

    monkeypatch.setattr("lepton_inference.shared_tensors._INLINE_BYTES", 7)
    monkeypatch.setattr("lepton_inference.shared_tensors.classified", spy)
    request = pb.ModelInferRequest.FromString(ask(model, **whole()))
    if model == "fibonacci":
        request.parameters["max_steps"].int64_param = 1
    request.outputs.add(name="y").parameters["classification"].int64_param = 1
    client = Client()
    async with RequestStream(server.protocol, server.admitted, client.take) as stream:
        stream.begin(request.SerializeToString(), None)
        await stream.finish()
    (answer,) = client.answers
    assert answer.infer_response.raw_output_contents[0][4:] == b"1:0"
    assert threads
    assert threading.get_ident() not in threads
