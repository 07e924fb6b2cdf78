"""Which calls a service's own channels hedge, as services make them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from google.protobuf import descriptor_pool

from lepton.api.auth.v1 import auth_pb2
from lepton.api.registry.v1 import registry_pb2, registry_pb2_grpc
from lepton.api.storage.v1 import storage_pb2
from lepton_mesh.authorization import AuthorizationTable, Rule
from lepton_mesh.config import MeshSettings
from lepton_mesh.discovery import Instance
from lepton_mesh.interceptors.server import server_interceptors
from lepton_mesh.peers import Denylist, PeerCheck
from lepton_mesh.runtime import HEDGED_READS, MeshRuntime
from lepton_mesh.server import MeshServer, Served
from lepton_mesh.telemetry import Telemetry
from lepton_mesh.tls import server_credentials

if TYPE_CHECKING:
    from conftest import Mesh

SERVICE = registry_pb2.DESCRIPTOR.services_by_name["RegistryService"]
PUBLIC = AuthorizationTable(
    {f"/{SERVICE.full_name}/{method.name}": Rule(public=True) for method in SERVICE.methods}
)


class Registry(registry_pb2_grpc.RegistryServiceServicer):
    """The first call of each method hangs, whichever instance it reaches."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self._name = name
        self._calls = calls

    async def _answer(self, method: str) -> registry_pb2.ModelVersion:
        self._calls.append(method)
        if self._calls.count(method) == 1:
            await asyncio.Event().wait()
        return registry_pb2.ModelVersion(name=self._name)

    async def GetModelVersion(self, request: Any, context: Any) -> Any:
        return await self._answer("get")

    async def CreateModelVersion(self, request: Any, context: Any) -> Any:
        return await self._answer("create")


class Two:
    """A directory with two instances of the registry."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses

    def instances(self, service: str) -> tuple[Instance, ...]:
        found = self._addresses if service == "registry" else []
        return tuple(Instance(service, f"{service}-{one}", one) for one in found)

    def subscribe(self, callback: Any) -> Any:
        return lambda: None


async def test_a_slow_read_goes_to_a_second_instance_and_a_slow_write_does_not(
    mesh: Mesh, tmp_path: Path
) -> None:
    """On the channel that a service gets from its runtime, with nothing asked for."""
    calls: list[str] = []
    servers, addresses = [], []
    for name in ("one", "two"):
        server = MeshServer(
            [
                Served(
                    registry_pb2_grpc.add_RegistryServiceServicer_to_server,
                    Registry(name, calls),
                    SERVICE,
                )
            ],
            PUBLIC,
            server_interceptors(
                Telemetry("registry"), PeerCheck("test.local", Denylist()), mesh.verifier, 10
            ),
        )
        credentials = server_credentials(cast("Any", mesh.identity("registry")))
        addresses.append(server.listen("127.0.0.1", 0, credentials))
        await server.start()
        servers.append(server)
    runtime = MeshRuntime(
        service="inference",
        settings=MeshSettings(state_dir=tmp_path),
        identity=cast("Any", mesh.identity("inference")),
        etcd=cast("Any", None),
        directory=cast("Any", Two(addresses)),
        telemetry=Telemetry("inference"),
    )
    stub: Any = registry_pb2_grpc.RegistryServiceStub(runtime.channel("registry"))
    async with asyncio.timeout(10):
        balanced = runtime.channel("registry").inner
        while sum(one.ready for one in balanced.pool.endpoints) < 2:
            await balanced.pool.wait_for_change()
        answer = await stub.GetModelVersion(registry_pb2.GetModelVersionRequest())
        assert answer.name in {"one", "two"}
        writing = stub.CreateModelVersion(registry_pb2.CreateModelVersionRequest())
        while "create" not in calls:
            await asyncio.sleep(0)
        # A read is hedged after a tenth of a second.
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(writing, 0.3)
    assert calls == ["get", "get", "create"]
    await runtime._close_channels()
    for server in servers:
        await server.drain(0)


def test_what_is_hedged_exists_and_is_one_answer_to_one_request() -> None:
    """A method that was renamed would go unhedged in silence."""
    pool = descriptor_pool.Default()
    for file in (auth_pb2, registry_pb2, storage_pb2):  # importing them fills the pool
        assert pool.FindFileByName(file.DESCRIPTOR.name)
    for path in HEDGED_READS:
        service, _, name = path.removeprefix("/").partition("/")
        method = pool.FindServiceByName(service).methods_by_name[name]
        assert not method.client_streaming
        assert not method.server_streaming
        assert name.startswith(("Get", "List"))
