"""What storage holds, asked over the mesh."""

from __future__ import annotations

from typing import Any

from lepton.api.storage.v1 import storage_pb2 as pb
from lepton.api.storage.v1 import storage_pb2_grpc
from lepton_mesh.errors import NotFound
from lepton_registry.ports import Artifact

GET_ARTIFACT = "/lepton.api.storage.v1.StorageService/GetArtifact"


class StorageArtifacts:
    """Artifacts behind the storage service's API."""

    def __init__(self, channel: Any, timeout_seconds: float) -> None:
        """``channel`` leads to storage and may repeat :data:`GET_ARTIFACT`."""
        self._stub: Any = storage_pb2_grpc.StorageServiceStub(channel)
        self._timeout_seconds = timeout_seconds

    async def find(self, name: str) -> Artifact | None:
        # With the caller's own token: nobody registers what it may not read.
        try:
            found: pb.Artifact = await self._stub.GetArtifact(
                pb.GetArtifactRequest(name=name), timeout=self._timeout_seconds
            )
        except NotFound:
            return None
        return Artifact(found.sha256, found.size_bytes)

    async def delete(self, name: str) -> None:
        await self._stub.DeleteArtifact(
            pb.DeleteArtifactRequest(name=name), timeout=self._timeout_seconds
        )
