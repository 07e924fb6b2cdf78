"""What storage holds, asked over the mesh."""

from __future__ import annotations

from typing import Any

from lepton.api.storage.v1 import storage_pb2 as pb
from lepton.api.storage.v1 import storage_pb2_grpc
from lepton_mesh.caller import acting_as_service
from lepton_mesh.errors import NotFound
from lepton_registry.ports import Artifact
from lepton_registry.records import Hold, Phase

_SERVICE = "/lepton.api.storage.v1.StorageService/"
REPEATABLE = frozenset(
    _SERVICE + method for method in ("GetArtifact", "HoldArtifacts", "ReleaseArtifacts")
)


class StorageArtifacts:
    """Artifacts behind the storage service's API."""

    def __init__(self, channel: Any, timeout_seconds: float) -> None:
        """``channel`` leads to storage and may repeat :data:`REPEATABLE`."""
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

    async def hold(self, hold: Hold) -> None:
        request = pb.HoldArtifactsRequest(
            hold=hold.id,
            holder=f"models/{hold.model}",
            names=hold.artifacts,
            allow_missing=hold.phase is not Phase.REGISTERING,
        )
        with acting_as_service(hold.workspace):
            await self._stub.HoldArtifacts(request, timeout=self._timeout_seconds)

    async def release(self, hold: Hold) -> None:
        request = pb.ReleaseArtifactsRequest(
            hold=hold.id, delete_unheld=hold.phase is Phase.DELETED
        )
        with acting_as_service(hold.workspace):
            await self._stub.ReleaseArtifacts(request, timeout=self._timeout_seconds)
