"""The protocol over both of its adapters, with the same models and an open gate."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.inference_models import across_rows, identity, linear, two_by_two

sys.path.insert(0, str(Path(__file__).parents[3] / "bench"))
from data_plane import OpenGate, data_plane, load_models

from lepton_inference.grpc_port import GrpcPort
from lepton_inference.open_inference import OpenInference
from lepton_inference.serving import Serving
from lepton_inference.settings import ModelSettings

MODELS: dict[str, bytes] = {
    "linear": linear(1.0),
    "two": two_by_two(),
    "across": across_rows(),
    "text": identity(onnx.TensorProto.STRING, ["batch", 1]),
    "sequence": identity(onnx.TensorProto.FLOAT, ["batch", "length"]),
    "fixed": identity(onnx.TensorProto.FLOAT, [2, 2]),
    **{
        f"identity-{name.lower()}": identity(element, ["batch", 2])
        for name, element in {
            "BOOL": onnx.TensorProto.BOOL,
            "UINT8": onnx.TensorProto.UINT8,
            "UINT16": onnx.TensorProto.UINT16,
            "UINT32": onnx.TensorProto.UINT32,
            "UINT64": onnx.TensorProto.UINT64,
            "INT8": onnx.TensorProto.INT8,
            "INT16": onnx.TensorProto.INT16,
            "INT32": onnx.TensorProto.INT32,
            "INT64": onnx.TensorProto.INT64,
            "FP16": onnx.TensorProto.FLOAT16,
            "FP32": onnx.TensorProto.FLOAT,
            "FP64": onnx.TensorProto.DOUBLE,
        }.items()
    },
}


@dataclass(frozen=True)
class Server:
    """A server of the protocol."""

    address: str
    rest: bool
    pid: int


def _in_thread(make: Callable[[], Any]) -> Iterator[Any]:
    """Runs the asynchronous context manager that ``make`` makes on an event loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)

    manager = make()
    try:
        yield run(manager.__aenter__())
        run(manager.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextlib.asynccontextmanager
async def _grpc_port(models: dict[str, Path]) -> Any:
    serving = Serving()
    load_models(serving, models, ModelSettings())
    port = GrpcPort(OpenInference(serving), OpenGate(serving), lambda _: None, 64 << 20)
    address = await port.start(None, "127.0.0.1", 0)
    try:
        yield address, 0
    finally:
        await port.stop(1)


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The models as files."""
    directory = tmp_path_factory.mktemp("models")
    files = {}
    for name, content in MODELS.items():
        files[name] = directory / f"{name}.onnx"
        files[name].write_bytes(content)
    return files


@pytest.fixture(scope="session")
def asgi_server(model_files: dict[str, Path]) -> Iterator[Server]:
    """Envoy with Python inside, in the clear."""
    for address, pid in _in_thread(lambda: data_plane(model_files)):
        yield Server(address, rest=True, pid=pid)


@pytest.fixture(scope="session")
def grpc_server(model_files: dict[str, Path]) -> Iterator[Server]:
    """grpc.aio, in the clear."""
    for address, pid in _in_thread(lambda: _grpc_port(model_files)):
        yield Server(address, rest=False, pid=pid)


@pytest.fixture(params=["asgi", "grpc"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each of the two."""
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found
