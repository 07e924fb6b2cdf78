"""What the domain needs from the outside, one small Protocol per aggregate.

Everything here is synchronous and may block: it runs in storage's own threads.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Protocol

from lepton_storage.records import (
    Artifact,
    Blob,
    Dataset,
    DatasetVersion,
    Hold,
    Upload,
    WorkspaceKey,
)


class KeyEncryption(Protocol):
    """A key management service: wraps small keys with keys that it never gives out."""

    def wrap(self, key: bytes, context: bytes) -> tuple[str, bytes]:
        """``(kek_id, wrapped)`` under the current key-encryption key; bound to ``context``."""

    def unwrap(self, kek_id: str, wrapped: bytes, context: bytes) -> bytes:
        """The key; KeyError for an unknown ``kek_id``, ValueError if it does not authenticate."""

    def rotate(self) -> str:
        """Makes a new key-encryption key current and returns its id; old ones still unwrap."""

    def retire(self, needed: Collection[str]) -> None:
        """Forgets every key-encryption key but the current one and those ``needed``."""


class StoredObject(Protocol):
    """An object open for reading. Thread-safe."""

    size: int
    """Bytes as stored."""

    def read(self, start: int, length: int) -> bytes:
        """``length`` bytes from ``start``; fewer only at the end."""

    def close(self) -> None: ...


class ObjectStore(Protocol):
    """Immutable objects by key (``[0-9a-f]{32}``)."""

    def put_file(self, key: str, path: Path) -> None:
        """Moves a finished file in: all of it or nothing, durable on return, ``path`` gone.

        Raises DiskFull, ObjectStoreUnavailable.
        """

    def open(self, key: str) -> StoredObject:
        """Raises ObjectMissing, ObjectStoreUnavailable."""

    def exists(self, key: str) -> bool: ...

    def delete(self, key: str) -> None:
        """Deletes an object; nothing happens if there is none."""


class KeyRecords(Protocol):
    """Workspace keys."""

    def current(self, workspace: str) -> WorkspaceKey | None:
        """The key that new objects of the workspace take."""

    def get(self, key_id: str) -> WorkspaceKey | None: ...

    def add(self, key: WorkspaceKey) -> WorkspaceKey:
        """Stores ``key`` unless the workspace has a current one; returns the current one."""

    def alive(self) -> Sequence[WorkspaceKey]:
        """All keys that are not destroyed."""

    def rewrap(self, key: WorkspaceKey) -> None:
        """Replaces ``kek_id`` and ``wrapped``."""

    def destroy(self, workspace: str) -> int:
        """Forgets the workspace's wrapped keys and its uploads; returns how many keys.

        No trace of the wrapped keys stays in the records themselves. The objects of uploads that
        were not complete are condemned.
        """


class UploadRecords(Protocol):
    """Uploads, and the blobs that they end in."""

    def create(self, upload: Upload, *, reuse: bool) -> Upload:
        """Stores ``upload``, or returns the one stored before with its request_id.

        With ``reuse``, an upload whose digest and size a blob of the workspace has (under a key
        that is not destroyed) is stored as complete.
        """

    def get(self, workspace: str, id: str) -> Upload | None: ...

    def complete(self, upload: Upload, blob: Blob) -> Upload:
        """Adds ``blob`` unless the workspace has those bytes, and completes the upload.

        The answer's ``blob_id`` tells which blob it was; if another, ``blob``'s own object is
        condemned.
        """

    def delete(self, workspace: str, id: str) -> None:
        """Forgets an upload; the object of one that was not complete is condemned."""

    def incomplete(self) -> Sequence[Upload]: ...

    def delete_expired(self, now: datetime) -> Sequence[Upload]:
        """Forgets uploads whose time is up, complete or not, and returns them.

        The objects of those that were not complete are condemned.
        """

    def known(self, ids: Iterable[str]) -> set[str]:
        """Those of ``ids`` that a blob or an upload has."""

    def find_blobs(
        self, workspace: str, sha256s: Iterable[str], creator: str | None
    ) -> Mapping[str, Blob]:
        """Digest -> blob, of those that are there.

        With ``creator``, only blobs that an upload of theirs ended in.
        """

    def collect(self) -> Sequence[Blob]:
        """Forgets the blobs that nothing refers to, condemns their objects and returns them."""

    def condemned(self) -> Sequence[str]:
        """Objects that are to be deleted: these records had them and never will again."""

    def executed(self, ids: Iterable[str]) -> None:
        """Takes note that the objects ``ids`` are deleted."""


class DatasetRecords(Protocol):
    """Datasets and their versions."""

    def create(self, dataset: Dataset) -> Dataset:
        """Raises DatasetExists."""

    def get(self, workspace: str, id: str) -> Dataset | None: ...

    def list(self, workspace: str, after: str, limit: int) -> Sequence[Dataset]:
        """In order of id, those after ``after``."""

    def delete(self, workspace: str, id: str, etag: str = "") -> bool:
        """Whether there was one. Raises EtagMismatch if a non-empty ``etag`` is not its own."""

    def add_version(self, dataset: Dataset, version: DatasetVersion) -> DatasetVersion:
        """Stores a version and numbers it, or returns the one with the same digest.

        Raises DatasetNotFound, or BlobNotFound, if one was deleted in the meantime.
        """

    def find_version(self, dataset: Dataset, digest: str) -> DatasetVersion | None: ...

    def get_version(self, workspace: str, dataset: str, number: int) -> DatasetVersion | None:
        """``number`` 0 is the newest."""

    def get_blob(self, workspace: str, dataset: str, number: int, path: str) -> Blob | None:
        """The blob of one file of a version."""

    def list_versions(self, dataset: Dataset, before: int, limit: int) -> Sequence[DatasetVersion]:
        """Newest first, those below number ``before`` (0: all); without files and manifest."""

    def any_version(self) -> bool:
        """Whether there is a version, of whatever dataset and workspace."""


class ArtifactRecords(Protocol):
    """Artifacts."""

    def create(self, artifact: Artifact) -> Artifact:
        """Raises BlobNotFound if the blob was collected in the meantime."""

    def get(self, workspace: str, id: str) -> Artifact | None: ...

    def list(self, workspace: str, before: int, limit: int) -> Sequence[Artifact]:
        """Newest first, those below sequence ``before`` (0: all)."""

    def delete(self, workspace: str, id: str) -> bool:
        """Whether there was one. Raises ArtifactHeld."""

    def hold(self, hold: Hold, allow_missing: bool) -> None:
        """Stores ``hold`` over those of its artifacts that exist, unless that is done already.

        Raises ArtifactNotFound if one does not exist, unless ``allow_missing``.
        """

    def release(self, workspace: str, hold_id: str, delete_unheld: bool) -> None:
        """Forgets a hold; with ``delete_unheld``, also those of its artifacts without another."""
