"""The RPCs of lepton.api.storage.v1.StorageService."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
from google.protobuf.empty_pb2 import Empty

from lepton.api.storage.v1 import storage_pb2 as pb
from lepton.api.storage.v1.storage_pb2_grpc import StorageServiceServicer
from lepton_mesh.caller import current_caller
from lepton_mesh.resources import Page, check_id
from lepton_storage import convert
from lepton_storage.artifacts import Artifacts
from lepton_storage.blobs import Blobs
from lepton_storage.datasets import Datasets
from lepton_storage.errors import StorageRequestInvalid
from lepton_storage.records import Blob
from lepton_storage.uploads import Uploads

Context = grpc.aio.ServicerContext[Any, Any]


class StorageServicer(StorageServiceServicer):
    """Takes requests apart, calls the domain, puts answers together."""

    def __init__(
        self, uploads: Uploads, datasets: Datasets, artifacts: Artifacts, blobs: Blobs
    ) -> None:
        self._uploads = uploads
        self._datasets = datasets
        self._artifacts = artifacts
        self._blobs = blobs

    async def CreateUpload(self, request: pb.CreateUploadRequest, context: Context) -> pb.Upload:
        return convert.to_upload(
            await self._uploads.create(
                current_caller(), request.size_bytes, request.sha256, request.request_id
            )
        )

    async def GetUpload(self, request: pb.GetUploadRequest, context: Context) -> pb.Upload:
        id = convert.upload_id(request.name)
        return convert.to_upload(await self._uploads.get(current_caller(), id))

    async def WriteUpload(
        self, request_iterator: AsyncIterator[pb.WriteUploadRequest], context: Context
    ) -> pb.Upload:
        first = await anext(request_iterator, None)
        if first is None:
            raise StorageRequestInvalid(
                "the stream has no message; the first one names the upload", field="name"
            )
        id = convert.upload_id(first.name)
        pieces = convert.from_chunks(first, request_iterator)
        return convert.to_upload(await self._uploads.write(current_caller(), id, pieces))

    async def DeleteUpload(self, request: pb.DeleteUploadRequest, context: Context) -> Empty:
        await self._uploads.delete(current_caller(), convert.upload_id(request.name))
        return Empty()

    async def CreateDataset(self, request: pb.CreateDatasetRequest, context: Context) -> pb.Dataset:
        id = check_id(request.dataset_id, "dataset_id")
        given = request.dataset
        made = await self._datasets.create(
            current_caller(), id, given.description, convert.from_labels(given.labels)
        )
        return convert.to_dataset(made)

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Context) -> pb.Dataset:
        id = convert.dataset_id(request.name)
        return convert.to_dataset(await self._datasets.get(current_caller(), id))

    async def ListDatasets(
        self, request: pb.ListDatasetsRequest, context: Context
    ) -> pb.ListDatasetsResponse:
        page = Page.of(request, "datasets", str)
        datasets, token = await self._datasets.list(current_caller(), page)
        return pb.ListDatasetsResponse(
            datasets=[convert.to_dataset(dataset) for dataset in datasets], next_page_token=token
        )

    async def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Context) -> Empty:
        id = convert.dataset_id(request.name)
        await self._datasets.delete(current_caller(), id, request.etag)
        return Empty()

    async def CreateDatasetVersion(
        self, request: pb.CreateDatasetVersionRequest, context: Context
    ) -> pb.DatasetVersion:
        dataset = convert.dataset_id(request.parent)
        new = await asyncio.to_thread(convert.from_version, request.dataset_version)
        version = await self._datasets.create_version(current_caller(), dataset, new)
        return await asyncio.to_thread(convert.to_version, version)

    async def GetDatasetVersion(
        self, request: pb.GetDatasetVersionRequest, context: Context
    ) -> pb.DatasetVersion:
        dataset, number = convert.version_id(request.name, latest=True)
        version = await self._datasets.get_version(current_caller(), dataset, number)
        return await asyncio.to_thread(convert.to_version, version)

    async def ListDatasetVersions(
        self, request: pb.ListDatasetVersionsRequest, context: Context
    ) -> pb.ListDatasetVersionsResponse:
        dataset = convert.dataset_id(request.parent)
        page = Page.of(request, f"versions of {dataset}", int)
        versions, token = await self._datasets.list_versions(current_caller(), dataset, page)
        return pb.ListDatasetVersionsResponse(
            dataset_versions=[convert.to_version(version) for version in versions],
            next_page_token=token,
        )

    async def ReadDatasetFile(
        self, request: pb.ReadDatasetFileRequest, context: Context
    ) -> AsyncIterator[pb.DataChunk]:
        dataset, number = convert.version_id(request.name)
        blob = await self._datasets.file(current_caller(), dataset, number, request.path)
        async with aclosing(self._read(blob, request.offset, request.limit)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def CreateArtifact(
        self, request: pb.CreateArtifactRequest, context: Context
    ) -> pb.Artifact:
        new = convert.from_artifact(request.artifact)
        return convert.to_artifact(await self._artifacts.create(current_caller(), new))

    async def GetArtifact(self, request: pb.GetArtifactRequest, context: Context) -> pb.Artifact:
        id = convert.artifact_id(request.name)
        return convert.to_artifact(await self._artifacts.get(current_caller(), id))

    async def ListArtifacts(
        self, request: pb.ListArtifactsRequest, context: Context
    ) -> pb.ListArtifactsResponse:
        page = Page.of(request, "artifacts", int)
        artifacts, token = await self._artifacts.list(current_caller(), page)
        return pb.ListArtifactsResponse(
            artifacts=[convert.to_artifact(artifact) for artifact in artifacts],
            next_page_token=token,
        )

    async def DeleteArtifact(self, request: pb.DeleteArtifactRequest, context: Context) -> Empty:
        await self._artifacts.delete(current_caller(), convert.artifact_id(request.name))
        return Empty()

    async def ReadArtifact(
        self, request: pb.ReadArtifactRequest, context: Context
    ) -> AsyncIterator[pb.DataChunk]:
        id = convert.artifact_id(request.name)
        artifact = await self._artifacts.get(current_caller(), id)
        async with aclosing(self._read(artifact.blob, request.offset, request.limit)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def HoldArtifacts(self, request: pb.HoldArtifactsRequest, context: Context) -> Empty:
        hold = convert.from_hold(request, current_caller().workspace)
        await self._artifacts.hold(hold, allow_missing=request.allow_missing)
        return Empty()

    async def ReleaseArtifacts(
        self, request: pb.ReleaseArtifactsRequest, context: Context
    ) -> Empty:
        await self._artifacts.release(
            current_caller(), request.hold, delete_unheld=request.delete_unheld
        )
        return Empty()

    async def _read(
        self, blob: Blob, offset: int, limit: int
    ) -> AsyncGenerator[pb.DataChunk, None]:
        async with aclosing(self._blobs.read(blob, offset, limit)) as pieces:
            async for piece in pieces:
                yield convert.to_chunk(piece)
