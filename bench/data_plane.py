"""The data plane alone, with a local ONNX file and an open gate: for benchmarks and tests.

The gate that lets everybody in exists here and not in the service, so no setting of a
service can open it.

    async with data_plane({"mlp": Path("mlp.onnx")}) as (address, pid): ...
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lepton_inference import launcher
from lepton_inference.adapters import onnx_runtime
from lepton_inference.adapters.cuda_memory import CudaDevices
from lepton_inference.adapters.posix_shared_memory import PosixSharedMemory
from lepton_inference.asgi import Application
from lepton_inference.envoy import DataPort, MutualTls
from lepton_inference.launcher import EnvoyProcess
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.open_inference import OpenInference
from lepton_inference.serving import Admitted, Served, Serving, ServingState
from lepton_inference.settings import Isolation, ModelSettings
from lepton_inference.shared_memory import SharedMemory
from lepton_inference.shared_tensors import SharedTensors
from lepton_mesh.caller import Caller, Role

WORKSPACE = "bench"
_SETTINGS = TypeAdapter(ModelSettings)


class OpenGate:
    """Lets everybody into one workspace; each authorization header is a caller of its own."""

    def __init__(self, serving: Serving) -> None:
        self._workspace = serving.workspace(WORKSPACE)
        self._callers: dict[bytes, Admitted] = {}

    def known(self, headers: dict[bytes, bytes]) -> Admitted:
        shown = headers.get(b"authorization", b"")
        admitted = self._callers.get(shown)
        if admitted is None:
            subject = f"users/{sha256(shown).hexdigest()[:16]}" if shown else "users/anybody"
            caller = Caller("user", subject, WORKSPACE, Role.ADMIN)
            admitted = self._callers[shown] = Admitted(caller, self._workspace)
        return admitted

    async def admit(self, method: str, headers: dict[bytes, bytes]) -> Admitted:
        return self.known(headers)


def protocol(serving: Serving) -> OpenInference:
    """The protocol over what is served, with shared memory."""
    memory = SharedMemory(PosixSharedMemory(), CudaDevices())
    return OpenInference(serving, shared=SharedTensors(memory, 256 << 20))


def load_models(serving: Serving, models: dict[str, Path], settings: ModelSettings) -> None:
    """Loads and serves each file under its name. Call it on the event loop that serves.

    ModelSettings as JSON beside a file, ``.json`` in place of its suffix, count before
    ``settings``.
    """
    for name, path in models.items():
        own = path.with_suffix(".json")
        chosen = _SETTINGS.validate_json(own.read_bytes()) if own.exists() else settings
        # These models are known: none is tried in a process of its own before, unless it stays.
        own_process = chosen.execution.isolation is Isolation.OWN_PROCESS
        load = onnx_runtime.load if own_process else onnx_runtime.examine
        session = load(path, chosen)
        source = ModelSource(name, "1", onnx_runtime.PLATFORM, digest="")
        model = LoadedModel(source, session, chosen)
        serving.put(WORKSPACE, Served(name, ServingState.READY, models=[model], weights=[1]))


class _App:
    """The ASGI application that runs inside Envoy.

    BENCH_MODELS is ``name=path`` pairs, BENCH_SETTINGS how they are served, as JSON.
    """

    def __init__(self) -> None:
        self._application: Application | None = None

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            assert self._application is not None
            await self._application(scope, receive, send)
            return
        await receive()
        serving = Serving()
        pairs = os.environ["BENCH_MODELS"].split(os.pathsep)
        models = {name: Path(path) for name, path in (pair.split("=", 1) for pair in pairs)}
        load_models(serving, models, _SETTINGS.validate_json(os.environ["BENCH_SETTINGS"]))
        self._application = Application(protocol(serving), OpenGate(serving), 64 << 20)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


app = _App()


@contextlib.asynccontextmanager
async def data_plane(
    models: dict[str, Path],
    tls: MutualTls | None = None,
    settings: ModelSettings | None = None,
    *,
    ask_for_certificate: bool = True,
) -> AsyncIterator[tuple[str, int]]:
    """Runs Envoy with the models in it; gives its ``host:port`` and process id.

    Args:
        models: ONNX files by name.
        tls: Mutual TLS; None for none.
        settings: How all of them are served; the defaults if None.
        ask_for_certificate: Whether TLS asks the client for one.
    """
    with tempfile.TemporaryDirectory(prefix="lepton-") as directory:
        port = DataPort("data_plane:app", "127.0.0.1", 0, Path(directory), tls)
        pairs = os.pathsep.join(f"{name}={path}" for name, path in models.items())
        here = str(Path(__file__).parent)
        if here not in sys.path:
            sys.path.insert(0, here)
        environment = {
            **os.environ,
            "BENCH_MODELS": pairs,
            "BENCH_SETTINGS": _SETTINGS.dump_json(settings or ModelSettings()).decode(),
        }
        with contextlib.nullcontext() if ask_for_certificate else _any_client():
            envoy = EnvoyProcess.start(port, environment=environment)
        try:
            yield await envoy.address(), envoy.pid
        finally:
            await envoy.stop(5.0)


@contextlib.contextmanager
def _any_client() -> Iterator[None]:
    """Takes the demand for a client's certificate out of what is written for Envoy.

    Done here, from outside, so that no setting of a service can do it.
    """
    write = launcher.write_config

    def write_without(port: DataPort) -> Path:
        path = write(port)
        config = json.loads(path.read_text())
        (chain,) = config["static_resources"]["listeners"][0]["filter_chains"]
        tls = chain["transport_socket"]["typed_config"]
        tls["require_client_certificate"] = False
        del tls["common_tls_context"]["validation_context_sds_secret_config"]
        path.write_text(json.dumps(config))
        return path

    launcher.write_config = write_without
    try:
        yield
    finally:
        launcher.write_config = write
