"""Builds the inference service: the only place that knows every adapter."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from lepton.api.inference.v1 import inference_pb2
from lepton.api.inference.v1.inference_pb2_grpc import add_InferenceServiceServicer_to_server
from lepton_inference.adapters import onnx_runtime
from lepton_inference.adapters.cuda_memory import CudaDevices
from lepton_inference.adapters.mesh_models import MeshArtifacts, MeshRegistry
from lepton_inference.adapters.model_cache import ModelCache
from lepton_inference.adapters.posix_shared_memory import PosixSharedMemory
from lepton_inference.adapters.sql_endpoints import SqlEndpoints
from lepton_inference.changes import Changes
from lepton_inference.config import InferenceSettings
from lepton_inference.deployer import Deployer
from lepton_inference.endpoints import EndpointManager
from lepton_inference.gate import TokenGate
from lepton_inference.grpc_port import GrpcPort
from lepton_inference.metrics import ServingCollector
from lepton_inference.open_inference import OpenInference
from lepton_inference.repository import Repository
from lepton_inference.servicer import TABLE, InferenceServicer
from lepton_inference.serving import Serving
from lepton_inference.shared_memory import Bounds, SharedMemory
from lepton_inference.shared_tensors import SharedTensors
from lepton_mesh.claims import Claims
from lepton_mesh.database import Database
from lepton_mesh.process import Service
from lepton_mesh.runtime import MeshRuntime
from lepton_mesh.server import Served
from lepton_mesh.tls import server_credentials

_READS = frozenset(
    f"/lepton.api.registry.v1.RegistryService/{method}"
    for method in ("GetModelVersion", "ListModels")
)


class InferenceService:
    """The service's parts, before it is decided which port its data goes through."""

    def __init__(
        self, runtime: MeshRuntime, settings: InferenceSettings, database: Database
    ) -> None:
        self._runtime = runtime
        self._settings = settings
        self._database = database
        serving = Serving(runtime.telemetry)
        runtime.telemetry.registry.register(ServingCollector(serving))
        changes = Changes()
        endpoints = SqlEndpoints(database)
        self._deployer = Deployer(
            endpoints=endpoints,
            artifacts=MeshArtifacts(runtime.channel("storage")),
            cache=ModelCache(settings.state_dir / "models"),
            serving=serving,
            load=partial(onnx_runtime.load, trial_seconds=settings.model_trial_seconds),
            platform=onnx_runtime.PLATFORM,
            changes=changes,
        )
        registry = MeshRegistry(runtime.channel("registry", idempotent=_READS))
        manager = EndpointManager(endpoints, registry, self._deployer, changes)
        self._servicer = InferenceServicer(manager, runtime.draining)
        # Looked up late: the runtime's list is replaced once while the process starts.
        self._shared = build_shared_tensors(
            settings, revoked=lambda serial: serial in runtime.denylist
        )
        self.protocol = OpenInference(
            serving,
            Repository(manager, registry),
            self._shared,
            loaded=self._deployer.first_loads.over,
        )
        self.gate = TokenGate(
            serving,
            _RuntimeVerifier(runtime),
            settings.trust_domain,
            # Looked up late, as above.
            revoked=lambda serial: serial in runtime.denylist,
        )

    @classmethod
    async def open(cls, runtime: MeshRuntime, settings: InferenceSettings) -> InferenceService:
        """Opens the database and wires everything; nothing is loaded yet."""
        database = await asyncio.to_thread(
            Database.open, settings.database_url, "lepton_inference.migrations"
        )
        return cls(runtime, settings, database)

    def service(self, ports: Mapping[str, str], drained: Callable[[], Awaitable[None]]) -> Service:
        """What the process serves besides the data port.

        Args:
            ports: The data port's address, under ``oip``.
            drained: Returns once the data port is answering nobody any more.
        """

        async def close() -> None:
            self.protocol.accepting = False
            grace = self._settings.drain_grace_seconds
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(drained(), grace)
            if self._shared is not None:
                self._shared.memory.close()
            await self._deployer.close()
            await asyncio.to_thread(self._database.close)

        return Service(
            servicers=[
                Served(
                    add_InferenceServiceServicer_to_server,
                    self._servicer,
                    inference_pb2.DESCRIPTOR.services_by_name["InferenceService"],
                )
            ],
            table=TABLE,
            start=self._deployer.start,
            close=close,
            ports=ports,
        )


async def build_with_grpc(runtime: MeshRuntime, settings: InferenceSettings) -> Service:
    """The service with the fallback data port, grpc.aio, in a process of its own."""
    inference = await InferenceService.open(runtime, settings)
    port = GrpcPort(
        inference.protocol,
        inference.gate,
        # Looked up late, as above.
        lambda context: runtime.check_peer(context),  # noqa: PLW0108  for that reason
        settings.max_message_bytes,
        settings.max_connection_age_seconds,
        telemetry=runtime.telemetry,
        max_bytes_in_flight=settings.max_bytes_in_flight,
    )
    address = await port.start(
        server_credentials(runtime.identity), settings.listen_host, settings.oip_port
    )
    grace = settings.drain_grace_seconds
    return inference.service({"oip": address}, drained=lambda: port.stop(grace))


def build_shared_tensors(
    settings: InferenceSettings, revoked: Callable[[str], bool]
) -> SharedTensors | None:
    """Shared memory as the settings bound it; None where they turn it off."""
    if settings.shared_memory_regions == 0:
        return None
    bounds = Bounds(
        regions=settings.shared_memory_regions,
        caller_bytes=settings.shared_memory_caller_bytes,
        all_bytes=settings.shared_memory_bytes,
        idle_seconds=settings.shared_memory_idle_seconds,
    )
    memory = SharedMemory(
        PosixSharedMemory(settings.shared_memory_prefix), CudaDevices(), bounds, revoked=revoked
    )
    return SharedTensors(memory, settings.max_bytes_in_flight)


class _RuntimeVerifier:
    """The runtime's verifier, which is replaced once while the process starts."""

    def __init__(self, runtime: MeshRuntime) -> None:
        self._runtime = runtime

    async def verify(self, token: str) -> Claims:
        return await self._runtime.verifier.verify(token)
