"""Every conversion between protobuf and the domain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping

from lepton.api.storage.v1 import storage_pb2 as pb
from lepton_mesh.resources import InvalidName, parse_name
from lepton_storage.artifacts import NewArtifact
from lepton_storage.blobs import Piece
from lepton_storage.datasets import LATEST, NewFile, NewVersion, check_file_count
from lepton_storage.errors import StorageRequestInvalid
from lepton_storage.records import Artifact, Dataset, DatasetFormat, DatasetVersion, Hold
from lepton_storage.texts import check_label_count
from lepton_storage.uploads import Progress

_MAX_NUMBER = 2**31 - 1

_FORMATS = {
    pb.DATASET_FORMAT_UNSPECIFIED: DatasetFormat.RAW,
    pb.DATASET_FORMAT_RAW: DatasetFormat.RAW,
    pb.DATASET_FORMAT_IDX: DatasetFormat.IDX,
    pb.DATASET_FORMAT_CSV: DatasetFormat.CSV,
}
_FORMAT_NUMBERS = {
    DatasetFormat.RAW: pb.DATASET_FORMAT_RAW,
    DatasetFormat.IDX: pb.DATASET_FORMAT_IDX,
    DatasetFormat.CSV: pb.DATASET_FORMAT_CSV,
}


def upload_id(name: str) -> str:
    return parse_name("uploads/{upload}", name)[0]


def dataset_id(name: str) -> str:
    return parse_name("datasets/{dataset}", name)[0]


def artifact_id(name: str) -> str:
    return parse_name("artifacts/{artifact}", name)[0]


def version_id(name: str, *, latest: bool = False) -> tuple[str, int]:
    """Dataset and number; ``LATEST`` for ``latest`` where that is allowed."""
    dataset, number = parse_name("datasets/{dataset}/versions/{version}", name)
    if latest and number == "latest":
        return dataset, LATEST
    if not number.isdecimal() or not 0 < int(number) <= _MAX_NUMBER:
        raise InvalidName(
            f"'{name}' does not end in the number of a version"
            + (", or in 'latest'" if latest else "; get '…/versions/latest' to learn it"),
            name=name,
        )
    return dataset, int(number)


def to_upload(progress: Progress) -> pb.Upload:
    upload = progress.upload
    message = pb.Upload(
        name=f"uploads/{upload.id}",
        size_bytes=upload.size_bytes,
        sha256=upload.sha256,
        committed_bytes=progress.committed_bytes,
        complete=upload.complete,
    )
    message.expire_time.FromDatetime(upload.expire_time)
    return message


async def from_chunks(
    first: pb.WriteUploadRequest, rest: AsyncIterator[pb.WriteUploadRequest]
) -> AsyncIterator[Piece]:
    """The pieces of a WriteUpload stream."""
    yield _piece(first.chunk)
    async for request in rest:
        if request.name and request.name != first.name:
            raise StorageRequestInvalid(
                "one stream writes to one upload; open another for the other", field="name"
            )
        yield _piece(request.chunk)


def to_chunk(piece: Piece) -> pb.DataChunk:
    return pb.DataChunk(offset=piece.offset, data=piece.data, crc32=piece.crc32)


def to_dataset(dataset: Dataset) -> pb.Dataset:
    message = pb.Dataset(
        name=f"datasets/{dataset.id}",
        description=dataset.description,
        labels=dataset.labels,
        creator=dataset.creator,
        latest_version=f"datasets/{dataset.id}/versions/{dataset.latest}" if dataset.latest else "",
        etag=dataset.etag,
    )
    message.create_time.FromDatetime(dataset.create_time)
    return message


def from_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Raises StorageRequestInvalid for more than labels may be, before it goes through them."""
    check_label_count(len(labels))
    return dict(labels)


def from_version(message: pb.DatasetVersion) -> NewVersion:
    """Takes as long as the message has files: use a thread. Raises StorageRequestInvalid."""
    check_file_count(len(message.files))
    if message.format not in _FORMATS:
        raise StorageRequestInvalid(
            f"format {message.format} is not one of RAW, IDX and CSV", field="format"
        )
    return NewVersion(
        format=_FORMATS[message.format],
        files=[NewFile(file.path, file.sha256, file.media_type) for file in message.files],
        description=message.description,
        labels=from_labels(message.labels),
    )


def to_version(version: DatasetVersion) -> pb.DatasetVersion:
    """Takes as long as the version has files: use a thread."""
    message = pb.DatasetVersion(
        name=version.name,
        format=_FORMAT_NUMBERS[version.format],
        files=[
            pb.DataFile(
                path=file.path,
                sha256=file.blob.sha256,
                size_bytes=file.blob.size_bytes,
                media_type=file.media_type,
            )
            for file in version.files
        ],
        digest=version.digest,
        size_bytes=version.size_bytes,
        statistics=version.statistics,
        description=version.description,
        labels=version.labels,
        creator=version.creator,
        signature=version.signature,
    )
    message.create_time.FromDatetime(version.create_time)
    return message


def from_artifact(message: pb.Artifact) -> NewArtifact:
    return NewArtifact(
        sha256=message.sha256,
        media_type=message.media_type,
        filename=message.filename,
        source=message.source,
        labels=from_labels(message.labels),
    )


def to_artifact(artifact: Artifact) -> pb.Artifact:
    message = pb.Artifact(
        name=artifact.name,
        sha256=artifact.blob.sha256,
        size_bytes=artifact.blob.size_bytes,
        media_type=artifact.media_type,
        filename=artifact.filename,
        source=artifact.source,
        labels=artifact.labels,
    )
    message.create_time.FromDatetime(artifact.create_time)
    return message


def from_hold(request: pb.HoldArtifactsRequest, workspace: str) -> Hold:
    ids = [artifact_id(name) for name in request.names]
    return Hold(request.hold, workspace, request.holder, ids)


def _piece(chunk: pb.DataChunk) -> Piece:
    return Piece(chunk.offset, chunk.data, chunk.crc32)
