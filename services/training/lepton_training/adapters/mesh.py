"""Storage, registry and auth, as the training service asks them."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from lepton.api.auth.v1 import auth_pb2, auth_pb2_grpc
from lepton.api.registry.v1 import registry_pb2, registry_pb2_grpc
from lepton.api.storage.v1 import storage_pb2, storage_pb2_grpc
from lepton_mesh.caller import acting_as_service
from lepton_mesh.errors import NotFound, Unavailable
from lepton_mesh.runtime import MeshRuntime
from lepton_training.ports import (
    DatasetVersion,
    JobCredentials,
    ModelVersion,
    StoredArtifact,
)

_CALL_SECONDS = 15.0


class JoinAddressUnknown(Unavailable):
    reason = "JOIN_ADDRESS_UNKNOWN"


class MeshDatasets:
    """``Datasets``: the storage service, asked with the rights of the call that is served."""

    def __init__(self, runtime: MeshRuntime) -> None:
        self._stub: Any = storage_pb2_grpc.StorageServiceStub(
            runtime.channel(
                "storage",
                idempotent={"/lepton.api.storage.v1.StorageService/GetDatasetVersion"},
            )
        )

    async def resolve(self, name: str) -> DatasetVersion:
        version: storage_pb2.DatasetVersion = await self._stub.GetDatasetVersion(
            storage_pb2.GetDatasetVersionRequest(name=name), timeout=_CALL_SECONDS
        )
        return DatasetVersion(
            version.name, version.digest, storage_pb2.DatasetFormat.Name(version.format)
        )


class MeshModels:
    """``Models``: the registry, asked with the rights of the call that is served."""

    def __init__(self, runtime: MeshRuntime) -> None:
        self._registry: Any = registry_pb2_grpc.RegistryServiceStub(
            runtime.channel(
                "registry",
                idempotent={"/lepton.api.registry.v1.RegistryService/GetModelVersion"},
            )
        )

    async def resolve(self, name: str) -> ModelVersion:
        version: registry_pb2.ModelVersion = await self._registry.GetModelVersion(
            registry_pb2.GetModelVersionRequest(name=name), timeout=_CALL_SECONDS
        )
        return ModelVersion(
            version.name,
            version.lineage.recipe,
            version.lineage.dataset_version,
            dict(version.attachments),
        )


class MeshArtifacts:
    """``Artifacts``: the storage service, likewise."""

    def __init__(self, runtime: MeshRuntime) -> None:
        self._stub: Any = storage_pb2_grpc.StorageServiceStub(
            runtime.channel(
                "storage",
                idempotent={"/lepton.api.storage.v1.StorageService/GetArtifact"},
            )
        )

    async def resolve(self, name: str) -> StoredArtifact:
        found: storage_pb2.Artifact = await self._stub.GetArtifact(
            storage_pb2.GetArtifactRequest(name=name), timeout=_CALL_SECONDS
        )
        return StoredArtifact(found.name, found.sha256, found.size_bytes, found.media_type)


class MeshCheckpoints:
    """``Checkpoints``: the storage service, asked on the training service's own behalf."""

    def __init__(self, runtime: MeshRuntime) -> None:
        self._stub: Any = storage_pb2_grpc.StorageServiceStub(runtime.channel("storage"))

    async def delete(self, workspace: str, artifact: str) -> None:
        with acting_as_service(workspace), suppress(NotFound):
            await self._stub.DeleteArtifact(
                storage_pb2.DeleteArtifactRequest(name=artifact), timeout=_CALL_SECONDS
            )


class MeshCredentials:
    """``CredentialIssuer``: the auth service, asked on the training service's own behalf."""

    def __init__(self, runtime: MeshRuntime) -> None:
        self._runtime = runtime
        self._stub: Any = auth_pb2_grpc.CertificateServiceStub(runtime.channel("auth"))

    async def issue(
        self, workspace: str, job: str, reads: list[str], writes: list[str], ttl_seconds: int
    ) -> JobCredentials:
        with acting_as_service(workspace):
            answer: auth_pb2.IssueJobCredentialsResponse = await self._stub.IssueJobCredentials(
                auth_pb2.IssueJobCredentialsRequest(
                    job=job, reads=reads, writes=writes, ttl_seconds=ttl_seconds
                ),
                timeout=_CALL_SECONDS,
            )
        return JobCredentials(answer.join_token, answer.access_token)

    async def join_address(self) -> str:
        """Where auth listens now, by its record; else where this service itself joined."""
        for instance in self._runtime.directory.instances("auth"):
            if "join" in instance.ports:
                return instance.ports["join"]
        if self._runtime.settings.join_address:
            return self._runtime.settings.join_address
        raise JoinAddressUnknown(
            "no auth instance tells where to join; is the auth service up? (LEPTON_JOIN_ADDRESS)"
        )
