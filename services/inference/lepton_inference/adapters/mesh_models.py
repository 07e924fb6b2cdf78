"""Model versions from the registry service, and their bytes from the storage service."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from typing import Any

from lepton.api.registry.v1 import registry_pb2, registry_pb2_grpc
from lepton.api.storage.v1 import storage_pb2, storage_pb2_grpc
from lepton_inference.endpoint import ModelVersion
from lepton_inference.settings import EndpointInvalid
from lepton_mesh.caller import acting_as_service
from lepton_mesh.errors import DataLoss

_PAGE = 1000


class ArtifactDamaged(DataLoss):
    reason = "ARTIFACT_DAMAGED"


class MeshRegistry:
    """See :class:`lepton_inference.ports.Registry`."""

    def __init__(self, channel: Any) -> None:
        self._models = registry_pb2_grpc.RegistryServiceStub(channel)

    async def resolve(self, name: str) -> ModelVersion:
        """Raises what the registry raises: MODEL_NOT_FOUND and its kin."""
        found = await self._models.GetModelVersion(registry_pb2.GetModelVersionRequest(name=name))
        if not found.artifact or not found.sha256:
            raise EndpointInvalid(
                f"'{found.name}' has no artifact to serve; register one with it", name=found.name
            )
        return ModelVersion(
            name=found.name,
            artifact=found.artifact,
            sha256=found.sha256,
            class_names=tuple(found.class_names),
        )

    async def newest(self) -> dict[str, str]:
        """See the port."""
        models: list[registry_pb2.Model] = []
        request = registry_pb2.ListModelsRequest(page_size=_PAGE)
        while True:
            page = await self._models.ListModels(request)
            models += page.models
            request.page_token = page.next_page_token
            if not request.page_token:
                break
        return {
            model.name.removeprefix("models/"): model.latest_version.rpartition("/")[2]
            for model in models
            if model.latest_version
        }


class MeshArtifacts:
    """See :class:`lepton_inference.ports.Artifacts`."""

    def __init__(self, channel: Any) -> None:
        self._artifacts = storage_pb2_grpc.StorageServiceStub(channel)

    async def read(self, workspace: str, artifact: str) -> AsyncIterator[bytes]:
        """Raises ArtifactDamaged for a piece that is not what was sent."""
        with acting_as_service(workspace):
            call = self._artifacts.ReadArtifact(storage_pb2.ReadArtifactRequest(name=artifact))
        position = 0
        async for chunk in call:
            if chunk.offset != position or zlib.crc32(chunk.data) != chunk.crc32:
                raise ArtifactDamaged(
                    f"'{artifact}' arrived damaged at byte {position}; try again",
                    artifact=artifact,
                )
            position += len(chunk.data)
            yield chunk.data
