"""Datasets, and the making of immutable versions."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from lepton_mesh.caller import Caller
from lepton_mesh.resources import Page
from lepton_storage.blobs import Blobs
from lepton_storage.checks import Checks
from lepton_storage.errors import (
    DatasetFileNotFound,
    DatasetNotFound,
    DatasetVersionNotFound,
    StorageRequestInvalid,
)
from lepton_storage.formats import Open
from lepton_storage.manifest import ManifestKey, encode_manifest, manifest_digest
from lepton_storage.paths import MAX_PATH, check_paths
from lepton_storage.ports import DatasetRecords
from lepton_storage.records import Blob, DataFile, Dataset, DatasetFormat, DatasetVersion
from lepton_storage.texts import MAX_DESCRIPTION, MAX_NAME, check_labels, check_text
from lepton_storage.threads import IoThreads
from lepton_storage.uploads import Uploads

MAX_FILES = 100_000

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


@dataclass(frozen=True, slots=True)
class _Draft:
    """A version whose files are there, not checked yet."""

    dataset: Dataset
    files: tuple[DataFile, ...]
    manifest: bytes
    digest: str
    opened: Mapping[str, Open]
    """Path -> what reads the file, in order of path."""


class Datasets:
    """Makes, finds and deletes datasets and versions."""

    def __init__(
        self,
        records: DatasetRecords,
        uploads: Uploads,
        blobs: Blobs,
        key: ManifestKey,
        *,
        threads: IoThreads,
        checks: Checks,
    ) -> None:
        self._records = records
        self._uploads = uploads
        self._blobs = blobs
        self._key = key
        self._threads = threads
        self._checks = checks

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
        """Deletes a dataset, its versions, and soon the bytes that nothing else uses.

        Raises DatasetNotFound, and EtagMismatch if ``etag`` is given and not current.
        """
        if not await self._threads.run(self._records.delete, caller.workspace, id, etag):
            raise _no_dataset(id)
        self._blobs.collect_soon()

    async def create_version(self, caller: Caller, dataset: str, new: NewVersion) -> DatasetVersion:
        """Checks the files and makes a version, or finds the one with the same content.

        Raises DatasetNotFound, BlobNotFound, DatasetInvalid, StorageRequestInvalid.
        """
        check_text("description", new.description, MAX_DESCRIPTION)
        check_labels(new.labels)
        check_file_count(len(new.files))
        draft = await self._threads.run(self._draft, caller, dataset, new)
        if isinstance(draft, DatasetVersion):
            return draft
        statistics = await self._checks.statistics(
            (draft.dataset.uid, draft.digest), new.format, draft.opened
        )
        return await self._threads.run(self._add_version, caller, new, draft, statistics)

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
        check_text("path", path, MAX_PATH)
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

    def _draft(self, caller: Caller, id: str, new: NewVersion) -> DatasetVersion | _Draft:
        """The version that has this content already, or what there is to check and to store."""
        _check_files(new.files)
        dataset = self._find(caller, id)
        blobs = self._uploads.blobs(caller, [file.sha256 for file in new.files])
        files = tuple(
            DataFile(file.path, file.media_type or _guess_media_type(file.path), blobs[file.sha256])
            for file in sorted(new.files)
        )
        manifest = encode_manifest(new.format, files)
        digest = manifest_digest(manifest)
        return self._records.find_version(dataset, digest) or _Draft(
            dataset,
            files,
            manifest,
            digest,
            opened={file.path: self._reader(file.blob) for file in files},
        )

    def _add_version(
        self, caller: Caller, new: NewVersion, draft: _Draft, statistics: Mapping[str, str]
    ) -> DatasetVersion:
        version = DatasetVersion(
            dataset=draft.dataset.id,
            number=0,
            format=new.format,
            digest=draft.digest,
            manifest=draft.manifest,
            signature=self._key.sign(draft.manifest),
            size_bytes=sum(file.blob.size_bytes for file in draft.files),
            statistics=statistics,
            description=new.description,
            labels=new.labels,
            creator=caller.subject,
            create_time=datetime.now(UTC),
            files=draft.files,
        )
        return self._records.add_version(draft.dataset, version)

    def _reader(self, blob: Blob) -> Open:
        def read() -> Iterator[bytes]:
            with self._blobs.opened(blob) as reader:
                yield from reader.pieces(0, blob.size_bytes)

        return read


def check_file_count(count: int) -> None:
    """For files that are not taken apart yet. Raises StorageRequestInvalid."""
    if not 1 <= count <= MAX_FILES:
        raise StorageRequestInvalid(
            f"a version has 1 to {MAX_FILES} files, not {count}", field="files"
        )


def _check_files(files: Sequence[NewFile]) -> None:
    check_paths(file.path for file in files)
    for file in files:
        check_text("media_type", file.media_type, MAX_NAME)


def _guess_media_type(path: str) -> str:
    kind, encoding = _MEDIA_TYPES.guess_type(path)
    if encoding is not None:
        return f"application/{encoding}"
    return kind or "application/octet-stream"


def _no_dataset(id: str) -> DatasetNotFound:
    return DatasetNotFound(
        f"dataset '{id}' does not exist; `lepton data list` shows those that do", dataset=id
    )
