"""What storage refuses, and why; each names the thing and the remedy.

lepton_mesh.errors
├── InvalidArgument
│   ├── StorageRequestInvalid   a field is malformed
│   ├── ChunkInvalid            a piece's length or checksum is wrong
│   ├── DigestMismatch          what was sent is not what was announced
│   └── DatasetInvalid          a file is not what the declared format says
├── OutOfRange
│   ├── UploadOffset            a piece does not begin where the last one ended
│   └── ReadOffset              past the end of a file
├── NotFound
│   ├── UploadNotFound, DatasetNotFound, DatasetVersionNotFound, DatasetFileNotFound
│   ├── ArtifactNotFound
│   └── BlobNotFound            no complete upload has this digest
├── AlreadyExists
│   ├── DatasetExists
│   └── UploadRequestReused     one request_id for two different uploads
├── Aborted
│   └── UploadBusy              another stream writes to this upload
├── FailedPrecondition
│   ├── UploadComplete          nothing more can be sent
│   ├── ArtifactHeld            something else needs the file
│   ├── StateInUse              a service and a command that changes keys, at once
│   ├── NoWorkspaceKey          there is nothing to destroy
│   └── KeyDestroyed            the bytes were erased with their key
├── ResourceExhausted
│   └── DiskFull
├── Unavailable
│   └── ObjectStoreUnavailable
└── DataLoss
    ├── ObjectCorrupt           stored bytes do not authenticate
    ├── ObjectMissing           stored bytes are gone
    └── ManifestCorrupt         a manifest's digest or signature does not hold
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from lepton_mesh import disk
from lepton_mesh.disk import DiskFull
from lepton_mesh.errors import (
    Aborted,
    AlreadyExists,
    DataLoss,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
    Unavailable,
)


class StorageRequestInvalid(InvalidArgument):
    reason = "STORAGE_REQUEST_INVALID"


class ChunkInvalid(InvalidArgument):
    reason = "CHUNK_INVALID"


class DatasetInvalid(InvalidArgument):
    reason = "DATASET_INVALID"


class UploadOffset(OutOfRange):
    reason = "UPLOAD_OFFSET"


class ReadOffset(OutOfRange):
    reason = "READ_OFFSET"


class UploadNotFound(NotFound):
    reason = "UPLOAD_NOT_FOUND"


class DatasetNotFound(NotFound):
    reason = "DATASET_NOT_FOUND"


class DatasetVersionNotFound(NotFound):
    reason = "DATASET_VERSION_NOT_FOUND"


class DatasetFileNotFound(NotFound):
    reason = "DATASET_FILE_NOT_FOUND"


class ArtifactNotFound(NotFound):
    reason = "ARTIFACT_NOT_FOUND"


class BlobNotFound(NotFound):
    reason = "BLOB_NOT_FOUND"


class DatasetExists(AlreadyExists):
    reason = "DATASET_EXISTS"


class UploadRequestReused(AlreadyExists):
    reason = "UPLOAD_REQUEST_REUSED"


class UploadBusy(Aborted):
    reason = "UPLOAD_BUSY"


class UploadComplete(FailedPrecondition):
    reason = "UPLOAD_COMPLETE"


class ArtifactHeld(FailedPrecondition):
    reason = "ARTIFACT_HELD"


class KeyDestroyed(FailedPrecondition):
    reason = "KEY_DESTROYED"


class StateInUse(FailedPrecondition):
    reason = "STORAGE_STATE_IN_USE"


class NoWorkspaceKey(FailedPrecondition):
    reason = "NO_WORKSPACE_KEY"


class ObjectStoreUnavailable(Unavailable):
    reason = "OBJECT_STORE_UNAVAILABLE"


class DigestMismatch(InvalidArgument):
    reason = "DIGEST_MISMATCH"


class ObjectCorrupt(DataLoss):
    reason = "OBJECT_CORRUPT"


class ObjectMissing(DataLoss):
    reason = "OBJECT_MISSING"


class ManifestCorrupt(DataLoss):
    reason = "MANIFEST_CORRUPT"


_AFTERWARDS = (
    "or delete datasets and artifacts that are no longer needed, then send the same upload "
    "again: it goes on where it stopped"
)


def artifact_not_found(id: str) -> ArtifactNotFound:
    """The error for an artifact that is not in the caller's workspace."""
    return ArtifactNotFound(f"artifact '{id}' does not exist, or was deleted", artifact=id)


def disk_full(path: Path) -> DiskFull:
    """The error for a disk that has no room below ``path``."""
    return disk.disk_full(path, _AFTERWARDS)


def disk_errors(path: Path) -> AbstractContextManager[None]:
    """Turns "no space left" and "quota exceeded" raised inside into DiskFull."""
    return disk.disk_errors(path, _AFTERWARDS)
