"""The ASGI application without a server: what a lost caller leaves behind."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.asgi import Application
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.open_inference import OpenInference
from lepton_inference.serving import Served, Serving, ServingState, Workspace
from lepton_inference.settings import ModelSettings
from lepton_inference.signature import Signature
from lepton_inference.tensors import DATATYPES, TensorSpec

SPEC = TensorSpec("x", DATATYPES["FP32"], (-1, 2))


@dataclass
class Placement:
    provider: str = "CPUExecutionProvider"
    threads: int = 1
    inline_rows: int = 0
    note: str = ""


class HeldSession:
    """Doubles its input, once it is let go; on a worker thread."""

    signature = Signature((SPEC,), (TensorSpec("y", DATATYPES["FP32"], (-1, 2)),), batched=True)
    placement = Placement()

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
        self._serving = serving

    def known(self, headers: dict[bytes, bytes]) -> Workspace | None:
        return self._serving.workspace("w")

    async def admit(self, method: str, headers: dict[bytes, bytes]) -> Workspace:
        return self._serving.workspace("w")


class Exchange:
    """One request as a server hands it over."""

    def __init__(self) -> None:
        message = pb.ModelInferRequest(
            model_name="m",
            inputs=[pb.ModelInferRequest.InferInputTensor(name="x", datatype="FP32", shape=[1, 2])],
            raw_input_contents=[np.ones((1, 2), np.float32).tobytes()],
        ).SerializeToString()
        self._body: bytes | None = b"\0" + len(message).to_bytes(4, "big") + message
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
            "path": "/inference.GRPCInferenceService/ModelInfer",
            "headers": [(b"content-type", b"application/grpc")],
        }


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
