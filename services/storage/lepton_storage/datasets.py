"""Datasets, and the making of immutable versions."""

from __future__ import annotations

import mimetypes
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from lepton_mesh.caller import Caller
from lepton_mesh.resources import Page
from lepton_storage.blobs import Blobs
from lepton_storage.errors import (
    DatasetFileNotFound,
    DatasetInvalid,
    DatasetNotFound,
    DatasetVersionNotFound,
    StorageRequestInvalid,
)
from lepton_storage.formats import CHECKS
from lepton_storage.manifest import ManifestKey, encode_manifest, manifest_digest
from lepton_storage.ports import DatasetRecords
from lepton_storage.records import Blob, DataFile, Dataset, DatasetFormat, DatasetVersion
from lepton_storage.texts import MAX_DESCRIPTION, MAX_NAME, check_labels, check_text
from lepton_storage.threads import IoThreads
from lepton_storage.uploads import Uploads

MAX_FILES = 100_000
_MAX_PATH = 1024

# The built-in table alone: the system's files differ between machines.
_MEDIA_TYPES = mimetypes.MimeTypes(filenames=())
LATEST = 0
"""In place of a number: the newest version."""


class NewFile(NamedTuple):
    """A file of a version that is to be made."""

    path: str
    sha256: str
    media_type: str


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version that is to be made."""

    format: DatasetFormat
    files: Sequence[NewFile]
    description: str
    labels: Mapping[str, str]


class Datasets:
    """Makes, finds and deletes datasets and versions."""

    def __init__(
        self,
        records: DatasetRecords,
        uploads: Uploads,
        blobs: Blobs,
        key: ManifestKey,
        threads: IoThreads,
    ) -> None:
        self._records = records
        self._uploads = uploads
        self._blobs = blobs
        self._key = key
        self._threads = threads

    async def create(
        self, caller: Caller, id: str, description: str, labels: Mapping[str, str]
    ) -> Dataset:
        """Raises DatasetExists, StorageRequestInvalid."""
        check_text("description", description, MAX_DESCRIPTION)
        check_labels(labels)
        now = datetime.now(UTC)
        made = Dataset(id, caller.workspace, description, labels, caller.subject, now)
        return await self._threads.run(self._records.create, made)

    async def get(self, caller: Caller, id: str) -> Dataset:
        """Raises DatasetNotFound."""
        return await self._threads.run(self._find, caller, id)

    async def list(self, caller: Caller, page: Page) -> tuple[Sequence[Dataset], str]:
        """In order of id, and the token of the next page."""
        after = page.after[0] if page.after else ""
        found = await self._threads.run(self._records.list, caller.workspace, after, page.size + 1)
        more = len(found) > page.size
        return found[: page.size], page.token(found[page.size - 1].id) if more else ""

    async def delete(self, caller: Caller, id: str, etag: str = "") -> None:
        """Deletes a dataset, its versions and bytes that nothing else uses.

        Raises DatasetNotFound, and EtagMismatch if ``etag`` is given and not current.
        """
        if not await self._threads.run(self._records.delete, caller.workspace, id, etag):
            raise _no_dataset(id)
        await self._threads.run(self._blobs.collect)

    async def create_version(self, caller: Caller, dataset: str, new: NewVersion) -> DatasetVersion:
        """Checks the files and makes a version, or finds the one with the same content.

        Raises DatasetNotFound, BlobNotFound, DatasetInvalid, StorageRequestInvalid.
        """
        check_text("description", new.description, MAX_DESCRIPTION)
        check_labels(new.labels)
        _check_paths(new.files)
        return await self._threads.run(self._create_version, caller, dataset, new)

    async def get_version(self, caller: Caller, dataset: str, number: int) -> DatasetVersion:
        """The version, its signature verified; ``LATEST`` is the newest.

        Raises ResourceNotGranted (jobs), DatasetNotFound, DatasetVersionNotFound,
        ManifestCorrupt.
        """
        named = f"datasets/{dataset}/versions/{number or 'latest'}"
        if number != LATEST:
            caller.require_read(named)
        version = await self._threads.run(
            self._records.get_version, caller.workspace, dataset, number
        )
        if version is None:
            caller.require_read(named)
            await self.get(caller, dataset)
            raise DatasetVersionNotFound(
                f"'{named}' does not exist; `lepton data list` shows the versions there are",
                name=named,
            )
        caller.require_read(version.name)
        await self._threads.run(self._key.verify, version)
        return version

    async def list_versions(
        self, caller: Caller, dataset: str, page: Page
    ) -> tuple[Sequence[DatasetVersion], str]:
        """Newest first, without files, and the token of the next page. Raises DatasetNotFound."""
        found = await self.get(caller, dataset)
        before = page.after[0] if page.after else 0
        versions = await self._threads.run(
            self._records.list_versions, found, before, page.size + 1
        )
        more = len(versions) > page.size
        return versions[: page.size], page.token(versions[page.size - 1].number) if more else ""

    async def file(self, caller: Caller, dataset: str, number: int, path: str) -> Blob:
        """The blob of one file of version ``number``.

        Raises what get_version raises but ManifestCorrupt, and DatasetFileNotFound: the bytes
        authenticate themselves, and a version of many files is not read whole for each.
        """
        name = f"datasets/{dataset}/versions/{number}"
        caller.require_read(name)
        check_text("path", path, _MAX_PATH)
        blob = await self._threads.run(
            self._records.get_blob, caller.workspace, dataset, number, path
        )
        if blob is None:
            await self.get_version(caller, dataset, number)
            raise DatasetFileNotFound(
                f"'{name}' has no file '{path}'; get the version to see its files",
                name=name,
                path=path,
            )
        return blob

    def _find(self, caller: Caller, id: str) -> Dataset:
        dataset = self._records.get(caller.workspace, id)
        if dataset is None:
            raise _no_dataset(id)
        return dataset

    def _create_version(self, caller: Caller, id: str, new: NewVersion) -> DatasetVersion:
        dataset = self._find(caller, id)
        blobs = self._uploads.blobs(caller, [file.sha256 for file in new.files])
        files = tuple(
            DataFile(file.path, file.media_type or _guess_media_type(file.path), blobs[file.sha256])
            for file in sorted(new.files)
        )
        manifest = encode_manifest(new.format, files)
        digest = manifest_digest(manifest)
        existing = self._records.find_version(dataset, digest)
        if existing is not None:
            return existing
        statistics = CHECKS[new.format]({file.path: self._reader(file.blob) for file in files})
        version = DatasetVersion(
            dataset=id,
            number=0,
            format=new.format,
            digest=digest,
            manifest=manifest,
            signature=self._key.sign(manifest),
            size_bytes=sum(file.blob.size_bytes for file in files),
            statistics=statistics,
            description=new.description,
            labels=new.labels,
            creator=caller.subject,
            create_time=datetime.now(UTC),
            files=files,
        )
        return self._records.add_version(dataset, version)

    def _reader(self, blob: Blob) -> Callable[[], Iterator[bytes]]:
        def read() -> Iterator[bytes]:
            with self._blobs.opened(blob) as reader:
                yield from reader.pieces(0, blob.size_bytes)

        return read


def _check_paths(files: Sequence[NewFile]) -> None:
    if not files or len(files) > MAX_FILES:
        raise StorageRequestInvalid(
            f"a version has 1 to {MAX_FILES} files, not {len(files)}", field="files"
        )
    seen = set[str]()
    for file in files:
        _check_path(file.path)
        check_text("media_type", file.media_type, MAX_NAME)
        if file.path in seen:
            raise DatasetInvalid(
                f"'{file.path}' is named twice; give each file its own path", file=file.path
            )
        seen.add(file.path)


def _check_path(path: str) -> None:
    parts = path.split("/")
    harmless = all(part not in ("", ".", "..") for part in parts)
    printable = not any(unicodedata.category(char).startswith("C") for char in path)
    if not path or len(path) > _MAX_PATH or not harmless or not printable or "\\" in path:
        raise DatasetInvalid(
            f"'{path[:100]}' is not a path of a file in a version; use a relative one with '/', "
            f"without '..', of at most {_MAX_PATH} characters",
            file=path[:100],
        )


def _guess_media_type(path: str) -> str:
    kind, encoding = _MEDIA_TYPES.guess_type(path)
    if encoding is not None:
        return f"application/{encoding}"
    return kind or "application/octet-stream"


def _no_dataset(id: str) -> DatasetNotFound:
    return DatasetNotFound(
        f"dataset '{id}' does not exist; `lepton data list` shows those that do", dataset=id
    )
