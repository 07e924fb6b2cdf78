"""The data plane in this process: the ASGI application and real models, without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from lepton_inference.adapters import onnx_runtime
from lepton_inference.adapters.cuda_memory import CudaDevices
from lepton_inference.adapters.posix_shared_memory import PosixSharedMemory
from lepton_inference.asgi import Application
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.open_inference import OpenInference
from lepton_inference.serving import Admitted, Served, Serving, ServingState
from lepton_inference.settings import ModelSettings
from lepton_inference.shared_memory import SharedMemory
from lepton_inference.shared_tensors import SharedTensors
from lepton_mesh.caller import Caller, Role
from tests.inference_models import NUMBERS, identity, linear, two_by_two

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
MAX_MESSAGE_BYTES = 1 << 20
MODELS: dict[str, bytes] = {
    "linear": linear(1.0),
    "two": two_by_two(),
    "text": identity(onnx.TensorProto.STRING, ["batch", 1]),
    "words": identity(onnx.TensorProto.STRING, ["batch", "length"]),
    "ragged": identity(onnx.TensorProto.FLOAT, ["batch", "length"]),
    "fixed": identity(onnx.TensorProto.FLOAT, [2, 2]),
    **{
        f"identity-{name.lower()}": identity(element, ["batch", 2])
        for name, element in NUMBERS.items()
    },
}


class _OpenGate:
    def __init__(self, serving: Serving) -> None:
        caller = Caller("user", "users/ada", "w", Role.ADMIN)
        self._admitted = Admitted(caller, serving.workspace("w"))

    def known(self, headers: dict[bytes, bytes]) -> Admitted | None:
        return self._admitted

    async def admit(self, method: str, headers: dict[bytes, bytes]) -> Admitted:
        return self._admitted


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    """Of HTTP."""
    headers: dict[str, str]
    """Trailers of gRPC among them."""
    body: bytes

    @property
    def grpc_status(self) -> int:
        """Of gRPC; -1 where there is none."""
        return int(self.headers.get("grpc-status", -1))


class Plane:
    """Call it from outside of any event loop; it has its own.

    Args:
        directory: Where the models' files go.
    """

    def __init__(self, directory: Path) -> None:
        self._loop = asyncio.new_event_loop()
        self.serving = Serving()
        self.run(self._load(directory))
        memory = SharedMemory(PosixSharedMemory(), CudaDevices())
        protocol = OpenInference(self.serving, shared=SharedTensors(memory, MAX_MESSAGE_BYTES))
        self._application = Application(protocol, _OpenGate(self.serving), MAX_MESSAGE_BYTES)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Runs it on the plane's event loop."""
        return self._loop.run_until_complete(coroutine)

    def forget(self) -> None:
        """Lets the next request of any kind go the long way."""
        self.serving.workspace("w").changed()

    def grpc(
        self,
        chunks: Sequence[bytes],
        headers: Mapping[str, bytes] | None = None,
        path: str = MODEL_INFER,
    ) -> Answer:
        """The answer to a gRPC call whose body comes in these chunks."""
        sent = {"content-type": b"application/grpc", **(headers or {})}
        return self.ask("POST", path, sent, chunks)

    def ask(
        self, verb: str, path: str, headers: Mapping[str, bytes], chunks: Sequence[bytes]
    ) -> Answer:
        """The answer to an HTTP request whose body comes in these chunks."""
        answer: Answer = self.run(self._ask(verb, path, headers, chunks))
        return answer

    async def ask_at_once(self, requests: Sequence[Sequence[bytes]]) -> list[Answer]:
        """The answers to ModelInfer calls that come together, and so share batches."""
        headers = {"content-type": b"application/grpc"}
        return await asyncio.gather(
            *(self._ask("POST", MODEL_INFER, headers, chunks) for chunks in requests)
        )

    async def _ask(
        self, verb: str, path: str, headers: Mapping[str, bytes], chunks: Sequence[bytes]
    ) -> Answer:
        waiting, over = list(chunks) or [b""], asyncio.Event()
        found: dict[str, Any] = {"status": 0, "headers": {}, "body": b""}

        async def receive() -> dict[str, Any]:
            if not waiting:
                await over.wait()  # the client is there, and says no more
                return {"type": "http.disconnect"}
            body = waiting.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(waiting)}

        async def send(message: dict[str, Any]) -> None:
            found["status"] = message.get("status", found["status"])
            found["body"] += message.get("body", b"")
            found["headers"] |= {
                name.decode("latin-1"): value.decode("latin-1")
                for name, value in message.get("headers", ())
            }

        scope = {
            "type": "http",
            "method": verb,
            "path": path,
            "headers": [(name.encode(), value) for name, value in headers.items()],
        }
        await self._application(scope, receive, send)
        over.set()
        return Answer(found["status"], found["headers"], found["body"])

    async def _load(self, directory: Path) -> None:
        settings = ModelSettings()
        for name, content in MODELS.items():
            path = directory / f"{name}.onnx"
            path.write_bytes(content)
            session = onnx_runtime.examine(path, settings)
            source = ModelSource(name, "1", onnx_runtime.PLATFORM, digest="")
            model = LoadedModel(source, session, settings)
            served = Served(name, ServingState.READY, models=[model], weights=[1])
            self.serving.put("w", served)
