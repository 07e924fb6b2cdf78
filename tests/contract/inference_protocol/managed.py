"""The protocol over a record of endpoints and a registry, at every door.

The registry holds ``digits`` in two versions and ``broken``, which is no model. Everybody is an
admin of the workspace that operates the installation.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

from lepton_inference.asgi import Application
from lepton_inference.envoy import DataPort, MutualTls
from lepton_inference.grpc_port import GrpcPort
from lepton_inference.launcher import EnvoyProcess
from lepton_inference.open_inference import OpenInference
from lepton_inference.serving import Admitted, Serving
from lepton_mesh import logs
from lepton_mesh.caller import Caller, Role
from lepton_mesh.telemetry import Telemetry
from tests.contract.inference_protocol.doors import MAX_MESSAGE_BYTES, Server
from tests.inference_models import linear
from tests.managed_inference import ManagedInference, Models

_ROOT = Path(__file__).parents[3]
_DIRECTORY = "MANAGED_DIRECTORY"


class OpenGate:
    """Lets everybody in as one admin."""

    def __init__(self, serving: Serving) -> None:
        caller = Caller("user", "users/ada", "default", Role.ADMIN)
        self._admitted = Admitted(caller, serving.workspace("default"))

    def known(self, headers: dict[bytes, bytes]) -> Admitted | None:
        return self._admitted

    async def admit(self, method: str, headers: dict[bytes, bytes]) -> Admitted:
        return self._admitted


def _managed(directory: Path) -> ManagedInference:
    models = Models({"digits/1": linear(1.0), "digits/2": linear(2.0), "broken/1": b"no model"})
    telemetry = Telemetry("inference")
    telemetry._tracer = TracerProvider().get_tracer("test")  # spans go somewhere
    return ManagedInference(
        models, directory / "inference.db", directory / "cache", telemetry=telemetry
    )


class _App:
    """The ASGI application that runs inside Envoy."""

    def __init__(self) -> None:
        self._application: Application | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            assert self._application is not None
            await self._application(scope, receive, send)
            return
        await receive()
        logs.configure("inference", "managed", stream=io.StringIO())
        managed = _managed(Path(os.environ[_DIRECTORY]))
        protocol = OpenInference(managed.serving, managed.repository)
        self._application = Application(protocol, OpenGate(managed.serving), MAX_MESSAGE_BYTES)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await managed.close()
        await send({"type": "lifespan.shutdown.complete"})


app = _App()


@contextlib.asynccontextmanager
async def asgi() -> AsyncIterator[Server]:
    """Envoy with Python inside, in the clear."""
    async with data_port(None) as (address, pid):
        yield Server(address, rest=True, pid=pid)


@contextlib.asynccontextmanager
async def data_port(tls: MutualTls | None) -> AsyncIterator[tuple[str, int]]:
    """Envoy with Python inside; gives its address and process id."""
    with tempfile.TemporaryDirectory(prefix="lepton-") as directory:
        port = DataPort(f"{__name__}:app", "127.0.0.1", 0, Path(directory), tls)
        path = os.pathsep.join([str(_ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        envoy = EnvoyProcess.start(
            port, environment={**os.environ, "PYTHONPATH": path, _DIRECTORY: directory}
        )
        try:
            yield await envoy.address(), envoy.pid
        finally:
            await envoy.stop(5.0)


@contextlib.asynccontextmanager
async def grpc_port() -> AsyncIterator[Server]:
    """grpc.aio, without REST."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with tempfile.TemporaryDirectory(prefix="lepton-") as directory:
        logs.configure("inference", "managed", stream=io.StringIO())
        managed = _managed(Path(directory))
        protocol = OpenInference(managed.serving, managed.repository)
        gate = OpenGate(managed.serving)
        port = GrpcPort(protocol, gate, lambda _: None, MAX_MESSAGE_BYTES)
        address = await port.start(None, "127.0.0.1", 0)
        try:
            yield Server(address, rest=False, pid=0)
        finally:
            await port.stop(1)
            await managed.close()
            root.handlers[:] = handlers
            root.setLevel(level)
