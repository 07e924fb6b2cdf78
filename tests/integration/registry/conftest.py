"""The registry on a mesh with the auth service and a storage that knows a few artifacts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.empty_pb2 import Empty

from lepton.api.auth.v1 import auth_pb2, auth_pb2_grpc
from lepton.api.registry.v1 import registry_pb2_grpc
from lepton.api.storage.v1 import storage_pb2, storage_pb2_grpc
from lepton_mesh.caller import acting_as_service, current_caller
from lepton_mesh.config import MeshSettings
from lepton_mesh.errors import NotFound
from lepton_mesh.process import Served, Service
from lepton_mesh.runtime import MeshRuntime
from lepton_registry import bootstrap
from lepton_registry.config import RegistrySettings
from lepton_storage.access import TABLE as STORAGE_TABLE
from tests.service_mesh import ServiceMesh

HELD = {
    ("default", "artifacts/a1"): ("a" * 64, 1234),
    ("default", "artifacts/a2"): ("b" * 64, 5),
    ("default", "artifacts/a3"): ("d" * 64, 7),
    ("lab", "artifacts/l1"): ("a" * 64, 1234),
}
"""(workspace, artifact) -> (SHA-256, bytes)."""


class FakeStorage(storage_pb2_grpc.StorageServiceServicer):
    """Answers GetArtifact from :data:`HELD`, and notes who holds and deletes what."""

    def __init__(self) -> None:
        self.holds: dict[str, tuple[str, str, list[str]]] = {}
        """Hold -> (subject, holder, artifacts)."""
        self.deleted: asyncio.Queue[tuple[str, list[str]]] = asyncio.Queue()
        """(subject, artifacts)"""

    async def GetArtifact(
        self, request: storage_pb2.GetArtifactRequest, context: Any
    ) -> storage_pb2.Artifact:
        current_caller().require_read(request.name)
        found = HELD.get((current_caller().workspace, request.name))
        if found is None:
            raise NotFound(f"'{request.name}' is not here")
        return storage_pb2.Artifact(name=request.name, sha256=found[0], size_bytes=found[1])

    async def HoldArtifacts(self, request: storage_pb2.HoldArtifactsRequest, context: Any) -> Empty:
        self.holds[request.hold] = (
            current_caller().subject,
            request.holder,
            list(request.names),
        )
        return Empty()

    async def ReleaseArtifacts(
        self, request: storage_pb2.ReleaseArtifactsRequest, context: Any
    ) -> Empty:
        _, _, names = self.holds.pop(request.hold, ("", "", []))
        if request.delete_unheld:
            self.deleted.put_nowait((current_caller().subject, names))
        return Empty()


async def build_storage(
    storage: FakeStorage, runtime: MeshRuntime, settings: MeshSettings
) -> Service:
    served = Served(
        storage_pb2_grpc.add_StorageServiceServicer_to_server,
        storage,
        storage_pb2.DESCRIPTOR.services_by_name["StorageService"],
    )
    return Service([served], STORAGE_TABLE)


@dataclass
class Registry:
    """Stubs over the mesh, and tokens by what they are for."""

    mesh: ServiceMesh
    gateway: MeshRuntime
    models: Any
    """Called as the gateway calls for its clients."""
    models_of_jobs: Any
    """Called by a service that carries a job's token on; the gateway may not."""
    tokens: dict[str, str]
    storage: FakeStorage


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def registry(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Registry]:
    storage = FakeStorage()
    mesh = ServiceMesh(tmp_path_factory.mktemp("mesh"))
    await mesh.start("gateway", "storage", "training", "registry")
    await mesh.serve("storage", MeshSettings, partial(build_storage, storage))
    await mesh.serve("registry", RegistrySettings, bootstrap.build)
    gateway, training = await mesh.member("gateway"), await mesh.member("training")
    yield Registry(
        mesh,
        gateway,
        registry_pb2_grpc.RegistryServiceStub(gateway.channel("registry")),
        registry_pb2_grpc.RegistryServiceStub(training.channel("registry")),
        await _tokens(mesh, gateway, training),
        storage,
    )
    await mesh.stop()


async def _tokens(mesh: ServiceMesh, gateway: MeshRuntime, training: MeshRuntime) -> dict[str, str]:
    auth: Any = auth_pb2_grpc.AuthServiceStub(gateway.channel("auth"))

    async def log_in(user: str, password: str) -> str:
        shown = auth_pb2.IssueTokenRequest.Password(user=user, password=password)
        answer = await auth.IssueToken(auth_pb2.IssueTokenRequest(password=shown))
        return str(answer.access_token)

    tokens = {"admin": await log_in("admin", mesh.admin_password)}
    for role in ("viewer", "developer"):
        password = f"password of {role}"
        request = auth_pb2.CreateUserRequest(
            user_id=role, user=auth_pb2.User(password=password), role=f"ROLE_{role.upper()}"
        )
        await auth.CreateUser(request, metadata=(("authorization", f"Bearer {tokens['admin']}"),))
        tokens[role] = await log_in(role, password)
    certificates: Any = auth_pb2_grpc.CertificateServiceStub(training.channel("auth"))
    with acting_as_service("default"):
        issued = await certificates.IssueJobCredentials(
            auth_pb2.IssueJobCredentialsRequest(
                job="jobs/j1", reads=["artifacts/a1"], writes=["models/trained"]
            )
        )
    return {**tokens, "job": issued.access_token}
