"""What storage knows: plain values, as they come from and go to the database."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class DatasetFormat(StrEnum):
    """How the files of a version are to be read; the values stand in signed manifests."""

    RAW = "RAW"
    IDX = "IDX"
    CSV = "CSV"


@dataclass(frozen=True, slots=True)
class WorkspaceKey:
    """A workspace's key as stored: wrapped by a key-encryption key."""

    id: str
    """32 hex digits; 16 bytes in object headers."""
    workspace: str
    kek_id: str
    wrapped: bytes | None
    """None once destroyed."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Bytes that are complete, checked and stored under ``id`` in the object store."""

    id: str
    workspace: str
    sha256: str
    size_bytes: int
    key_id: str


@dataclass(frozen=True, slots=True)
class Upload:
    """Bytes on their way in; ``id`` becomes the blob's id if no other blob has the digest."""

    id: str
    workspace: str
    creator: str
    request_id: str
    """"" without one."""
    size_bytes: int
    sha256: str
    create_time: datetime
    expire_time: datetime
    blob_id: str | None = None
    """The blob it ended in; None while it is not complete."""

    @property
    def complete(self) -> bool:
        return self.blob_id is not None


@dataclass(frozen=True, slots=True)
class Dataset:
    """A named series of versions."""

    id: str
    """What the user chose; the last part of the resource name."""
    workspace: str
    description: str
    labels: Mapping[str, str]
    creator: str
    create_time: datetime
    latest: int = 0
    """Number of the newest version; 0 without one."""
    uid: int = 0
    """The database's own number."""

    @property
    def etag(self) -> str:
        """Changes with each version; a deleted and remade dataset has another."""
        # The time as well: SQLite gives the last number again when its row was deleted.
        state = f"{self.uid}|{self.create_time.isoformat()}|{self.latest}"
        return hashlib.sha256(state.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of a version, and the blob that holds it."""

    path: str
    media_type: str
    blob: Blob


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """An immutable set of files."""

    dataset: str
    number: int
    """From 1; 0 before the database gave one."""
    format: DatasetFormat
    digest: str
    """``sha256:<64 hex digits>`` of the manifest."""
    manifest: bytes
    """Left out of lists, as ``files`` are."""
    signature: str
    size_bytes: int
    statistics: Mapping[str, str]
    description: str
    labels: Mapping[str, str]
    creator: str
    create_time: datetime
    files: tuple[DataFile, ...] = field(default=())
    """In order of path; left out of lists."""

    @property
    def name(self) -> str:
        return f"datasets/{self.dataset}/versions/{self.number}"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that something made."""

    id: str
    workspace: str
    blob: Blob
    media_type: str
    filename: str
    source: str
    labels: Mapping[str, str]
    create_time: datetime
    sequence: int = 0
    """The database's own number, rising with time: the order of lists."""

    @property
    def name(self) -> str:
        return f"artifacts/{self.id}"


@dataclass(frozen=True, slots=True)
class Hold:
    """Artifacts that something needs, and that are not deleted meanwhile."""

    id: str
    """32 hex digits, which whoever holds them made up."""
    workspace: str
    holder: str
    """What needs them, such as ``models/digits``."""
    artifacts: Sequence[str]
    """Ids."""
