"""What the storage service refuses over real TLS, and what a service reads for itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from lepton.api.storage.v1 import storage_pb2 as pb
from lepton.api.storage.v1.storage_pb2_grpc import StorageServiceStub
from lepton.client import transfer
from lepton.client.errors import from_rpc_error
from lepton_mesh.caller import acting_as_service
from tests.integration.storage.conftest import World, artifact_of, random_file

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

SHA = "0" * 64


def chunk(data: bytes = b"x", offset: int = 0, crc32: int = 0) -> pb.DataChunk:
    return pb.DataChunk(offset=offset, data=data, crc32=crc32)


BAD = {
    "no token": ("GetDataset", pb.GetDatasetRequest(name="datasets/d"), "", "UNAUTHENTICATED"),
    "role too low": (
        "CreateDataset",
        pb.CreateDatasetRequest(dataset_id="d"),
        "viewer",
        "ROLE_TOO_LOW",
    ),
    "malformed digest": (
        "CreateUpload",
        pb.CreateUploadRequest(size_bytes=1, sha256="no"),
        "developer",
        "STORAGE_REQUEST_INVALID",
    ),
    "does not fit": (
        "CreateUpload",
        pb.CreateUploadRequest(size_bytes=1 << 50, sha256=SHA),
        "developer",
        "DISK_FULL",
    ),
    "no such upload": (
        "GetUpload",
        pb.GetUploadRequest(name="uploads/none"),
        "developer",
        "UPLOAD_NOT_FOUND",
    ),
    "malformed name": (
        "GetUpload",
        pb.GetUploadRequest(name="uploads/../x"),
        "developer",
        "INVALID_NAME",
    ),
    "malformed id": (
        "CreateDataset",
        pb.CreateDatasetRequest(dataset_id="Digits!"),
        "developer",
        "INVALID_ID",
    ),
    "no such dataset": (
        "GetDataset",
        pb.GetDatasetRequest(name="datasets/none"),
        "viewer",
        "DATASET_NOT_FOUND",
    ),
    "no such version": (
        "GetDatasetVersion",
        pb.GetDatasetVersionRequest(name="datasets/mine/versions/7"),
        "viewer",
        "DATASET_VERSION_NOT_FOUND",
    ),
    "no such bytes": (
        "CreateArtifact",
        pb.CreateArtifactRequest(artifact=pb.Artifact(sha256=SHA)),
        "developer",
        "BLOB_NOT_FOUND",
    ),
    "dataset of another workspace": (
        "GetDataset",
        pb.GetDatasetRequest(name="datasets/mine"),
        "stranger",
        "DATASET_NOT_FOUND",
    ),
    "dataset exists": (
        "CreateDataset",
        pb.CreateDatasetRequest(dataset_id="mine"),
        "developer",
        "DATASET_EXISTS",
    ),
    "dataset has changed": (
        "DeleteDataset",
        pb.DeleteDatasetRequest(name="datasets/mine", etag="of-another-time"),
        "developer",
        "ETAG_MISMATCH",
    ),
    "unknown format": (
        "CreateDatasetVersion",
        pb.CreateDatasetVersionRequest(
            parent="datasets/mine", dataset_version=pb.DatasetVersion(format=99)
        ),
        "developer",
        "STORAGE_REQUEST_INVALID",
    ),
    "negative page": (
        "ListDatasets",
        pb.ListDatasetsRequest(page_size=-1),
        "viewer",
        "INVALID_PAGE",
    ),
    "foreign page token": (
        "ListArtifacts",
        pb.ListArtifactsRequest(page_token="bm8"),
        "viewer",
        "INVALID_PAGE",
    ),
}


async def test_bad_input(world: World) -> None:
    """Each row: a call, who makes it, and the reason of the error it gets."""

    def go() -> dict[str, str]:
        found = {}
        with world.stub() as stub:
            stub.CreateDataset(
                pb.CreateDatasetRequest(dataset_id="mine"), metadata=world.metadata("developer")
            )
            for name, (method, request, who, _) in BAD.items():
                try:
                    getattr(stub, method)(request, metadata=world.metadata(who) if who else ())
                except grpc.RpcError as error:
                    failure = from_rpc_error(error)
                    assert failure.message
                    found[name] = failure.code.name if not who else failure.reason
        return found

    assert await asyncio.to_thread(go) == {name: row[3] for name, row in BAD.items()}


async def test_bad_streams(world: World) -> None:
    """A stream without a message, with a gap, and a read past the end."""

    def go() -> list[str]:
        metadata = world.metadata("developer")
        reasons = []
        with world.stub() as stub:
            begun = stub.CreateUpload(
                pb.CreateUploadRequest(size_bytes=4, sha256=SHA), metadata=metadata
            )
            for requests in (
                [],
                [pb.WriteUploadRequest(name=begun.name, chunk=chunk(offset=2))],
                [pb.WriteUploadRequest(name=begun.name, chunk=chunk(crc32=1))],
                [pb.WriteUploadRequest(name=begun.name, chunk=chunk(b"\0" * 4, 0, 0x2144DF1C))],
                [pb.WriteUploadRequest(name=begun.name)],
            ):
                try:
                    stub.WriteUpload(iter(requests), metadata=metadata)
                except grpc.RpcError as error:
                    reasons.append(from_rpc_error(error).reason)
        return reasons

    assert await asyncio.to_thread(go) == [
        "STORAGE_REQUEST_INVALID",
        "UPLOAD_OFFSET",
        "CHUNK_INVALID",
        "DIGEST_MISMATCH",
        "UPLOAD_NOT_FOUND",
    ]


async def test_a_service_reads_for_itself_what_the_table_lets_it(
    world: World, tmp_path: Path
) -> None:
    """Inference reads artifacts of the workspace it acts in; nothing else, and nowhere else."""
    source = random_file(tmp_path / "source", 100)

    def go() -> pb.Artifact:
        with world.stub() as stub:
            metadata = world.metadata("developer")
            return artifact_of(world, stub, transfer.upload_file(stub, source, metadata=metadata))

    made = await asyncio.to_thread(go)
    inference = await world.mesh.member("inference")
    assert inference.directory.instances("storage")
    stub = StorageServiceStub(inference.channel("storage"))
    with acting_as_service("default"):
        found = await stub.GetArtifact(pb.GetArtifactRequest(name=made.name))
        assert found == made
        chunks = stub.ReadArtifact(pb.ReadArtifactRequest(name=made.name))
        assert b"".join([one.data async for one in chunks]) == source.read_bytes()
        with pytest.raises(Exception, match="may not call"):
            await stub.ListArtifacts(pb.ListArtifactsRequest())
    with acting_as_service("elsewhere"), pytest.raises(Exception, match="does not exist"):
        await stub.GetArtifact(pb.GetArtifactRequest(name=made.name))


async def test_the_registry_holds_the_files_of_models(world: World, tmp_path: Path) -> None:
    """For itself and nobody else; nobody deletes them meanwhile, and the registry may."""
    source = random_file(tmp_path / "source", 100)
    hold = pb.HoldArtifactsRequest(hold="1" * 32, holder="models/digits")

    def make() -> pb.Artifact:
        with world.stub() as stub:
            metadata = world.metadata("developer")
            return artifact_of(world, stub, transfer.upload_file(stub, source, metadata=metadata))

    def reason(method: str, request: object) -> str:
        with world.stub() as stub, pytest.raises(grpc.RpcError) as refused:
            getattr(stub, method)(request, metadata=world.metadata("admin"))
        return from_rpc_error(refused.value).reason

    made = await asyncio.to_thread(make)
    hold.names.append(made.name)
    assert await asyncio.to_thread(reason, "HoldArtifacts", hold) == "CALLER_NOT_ALLOWED"
    registry = await world.mesh.member("registry")
    assert registry.directory.instances("storage")
    stub = StorageServiceStub(registry.channel("storage"))
    with acting_as_service("default"):
        await stub.HoldArtifacts(hold)
        delete = pb.DeleteArtifactRequest(name=made.name)
        assert await asyncio.to_thread(reason, "DeleteArtifact", delete) == "ARTIFACT_HELD"
        await stub.ReleaseArtifacts(pb.ReleaseArtifactsRequest(hold=hold.hold, delete_unheld=True))
    get = pb.GetArtifactRequest(name=made.name)
    assert await asyncio.to_thread(reason, "GetArtifact", get) == "ARTIFACT_NOT_FOUND"
