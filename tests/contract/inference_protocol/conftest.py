"""The protocol at each of its doors, with the same models and an open gate.

``server`` is each of the two adapters, in the clear: for what an adapter does. ``door`` is
those and the ways on which other processes and users reach the first of them: for what a client
may count on. ``rest_door`` is each of the doors that has REST.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from pydantic import TypeAdapter

from lepton_inference.settings import Link, ModelSettings, SequenceSettings
from tests.contract.inference_protocol import doors
from tests.contract.inference_protocol.doors import Server
from tests.inference_models import (
    NUMBERS,
    across_rows,
    fibonacci,
    identity,
    linear,
    lstm,
    two_by_two,
)

MODELS: dict[str, bytes] = {
    "linear": linear(1.0),
    "two": two_by_two(),
    "across": across_rows(),
    "text": identity(onnx.TensorProto.STRING, ["batch", 1]),
    "sequence": identity(onnx.TensorProto.FLOAT, ["batch", "length"]),
    "classes": identity(onnx.TensorProto.FLOAT, ["batch", 3], labels='["cat", "dog", "emu"]'),
    "lstm": lstm(),
    "fibonacci": fibonacci(),
    "wide-fibonacci": fibonacci(4096),
    "fixed": identity(onnx.TensorProto.FLOAT, [2, 2]),
    **{
        f"identity-{name.lower()}": identity(element, ["batch", 2])
        for name, element in {**NUMBERS, "BF16": onnx.TensorProto.BFLOAT16}.items()
    },
}


SEQUENCES = {
    "lstm": SequenceSettings(states=(Link("h_next", "h"), Link("c_next", "c"))),
    **dict.fromkeys(
        ("fibonacci", "wide-fibonacci"),
        SequenceSettings(
            states=(Link("after", "before"),), feed_back=(Link("y", "x"),), max_steps=65536
        ),
    ),
}
"""Of the models that remember."""


def in_thread(make: Callable[[], Any]) -> Iterator[Any]:
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


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The models as files."""
    directory = tmp_path_factory.mktemp("models")
    files = {}
    for name, content in MODELS.items():
        files[name] = directory / f"{name}.onnx"
        files[name].write_bytes(content)
    for name, sequences in SEQUENCES.items():
        settings = TypeAdapter(ModelSettings).dump_json(ModelSettings(sequences=sequences))
        files[name].with_suffix(".json").write_bytes(settings)
    return files


@pytest.fixture(scope="session")
def asgi_server(model_files: dict[str, Path]) -> Iterator[Server]:
    """Envoy with Python inside, in the clear."""
    yield from in_thread(lambda: doors.asgi(model_files))


@pytest.fixture(scope="session")
def grpc_server(model_files: dict[str, Path]) -> Iterator[Server]:
    """grpc.aio, in the clear."""
    yield from in_thread(lambda: doors.grpc_port(model_files))


@pytest.fixture(scope="session")
def secured(
    model_files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Server]]:
    """The data port with mutual TLS, and the gateway in front of it."""
    directory = tmp_path_factory.mktemp("gateway")
    yield from in_thread(
        lambda: doors.secured(lambda tls: doors.data_plane(model_files, tls), directory)
    )


@pytest.fixture(scope="session")
def mtls_server(secured: tuple[Server, Server]) -> Server:
    """The data port with mutual TLS."""
    return secured[0]


@pytest.fixture(scope="session")
def gateway_server(secured: tuple[Server, Server]) -> Server:
    """The gateway, with TLS and a token."""
    return secured[1]


def _named(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(f"{request.param}_server")
    return found


@pytest.fixture(params=["asgi", "grpc"])
def server(request: pytest.FixtureRequest) -> Server:
    """Each of the two adapters."""
    return _named(request)


@pytest.fixture(params=["asgi", "grpc", "mtls", "gateway"])
def door(request: pytest.FixtureRequest) -> Server:
    """Each way in."""
    return _named(request)


@pytest.fixture(params=["asgi", "mtls", "gateway"])
def rest_door(request: pytest.FixtureRequest) -> Server:
    """Each way in that has REST."""
    return _named(request)
