"""Datasets: pushed as immutable versions, fetched with their digests checked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from lepton.api.storage.v1 import storage_pb2 as pb
from lepton.api.storage.v1.storage_pb2_grpc import StorageServiceStub
from lepton.client import transfer
from lepton.client.errors import (
    ApiError,
    InvalidRequestError,
    NotFoundError,
    TransferError,
    translated,
    unless_it_exists,
)
from lepton.client.names import dataset_name, dataset_version_name
from lepton.client.pages import items

Progress = Callable[[int], None]
"""Called with the bytes that are done so far, over all files."""


class DataClient:
    """Reads and writes datasets. Methods raise :class:`lepton.client.ApiError`, and
    :class:`lepton.client.TransferError` for local files."""

    def __init__(self, stub: StorageServiceStub) -> None:
        self._stub = stub

    def list(self) -> Iterator[pb.Dataset]:
        """Yields every dataset of the workspace, in order of name."""
        return items(
            lambda token: self._stub.ListDatasets(
                pb.ListDatasetsRequest(page_token=token), timeout=30
            ),
            lambda page: page.datasets,
        )

    def versions(self, dataset: str) -> Iterator[pb.DatasetVersion]:
        """Yields the versions of a dataset, newest first, without their files."""
        return items(
            lambda token: self._stub.ListDatasetVersions(
                pb.ListDatasetVersionsRequest(parent=dataset_name(dataset), page_token=token),
                timeout=30,
            ),
            lambda page: page.dataset_versions,
        )

    def version(self, name: str) -> pb.DatasetVersion:
        """Returns a version: ``mnist`` (its latest), ``mnist/3`` or a full resource name."""
        with translated():
            return self._stub.GetDatasetVersion(
                pb.GetDatasetVersionRequest(name=dataset_version_name(name)), timeout=30
            )

    def push(
        self,
        dataset: str,
        files: Mapping[str, Path],
        *,
        format: pb.DatasetFormat = pb.DATASET_FORMAT_RAW,
        description: str = "",
        progress: Progress | None = None,
    ) -> pb.DatasetVersion:
        """Makes a version of local files; the dataset is made when it is missing.

        Args:
            dataset: Id or resource name.
            files: Path in the version, with ``/``, to local file.
            format: How the server reads and checks the files.
            description: Where the data comes from.
            progress: Told the bytes done so far.

        Returns:
            The version; an existing one when the content is the same.
        """
        for path in files:
            if not _is_text(path):
                raise TransferError(
                    f"the file name {path!r} is not text in UTF-8; rename it, then push again",
                    reason="DATASET_INVALID",
                )
        # Asked before the bytes go, so that a wrong name or a viewer is told at once.
        missing = not self._exists(dataset)
        advance = _Advance(progress)
        uploaded = []
        for path, local in files.items():
            upload = transfer.upload_file(self._stub, local, progress=advance.within)
            advance.over(upload.size_bytes)
            uploaded.append(pb.DataFile(path=path, sha256=upload.sha256))
        created = self._create(dataset) if missing else None
        request = pb.CreateDatasetVersionRequest(
            parent=dataset_name(dataset),
            dataset_version=pb.DatasetVersion(
                format=format, files=uploaded, description=description
            ),
        )
        try:
            with translated():
                return self._stub.CreateDatasetVersion(request, timeout=300)
        except InvalidRequestError:
            # A dataset that this push made for nothing; it stays when somebody filled it meanwhile,
            # or when it cannot be deleted now: what is wrong with the files is what counts.
            if created is not None:
                with contextlib.suppress(ApiError):
                    self._delete(created.name, created.etag)
            raise

    def fetch(
        self, version: pb.DatasetVersion, directory: Path, *, progress: Progress | None = None
    ) -> None:
        """Writes the files of a version below ``directory``.

        A file appears only when it is whole and has its digest.

        Raises:
            TransferError: A path leads out of the folder, or a file cannot be written.
        """
        advance = _Advance(progress)
        for file in version.files:
            target = directory / _safe(file.path)
            transfer.make_folder(target.parent)
            transfer.download_dataset_file(
                self._stub, version.name, file, target, progress=advance.within
            )
            advance.over(file.size_bytes)

    def push_artifact(
        self, path: Path, *, media_type: str, filename: str, progress: Progress | None = None
    ) -> pb.Artifact:
        """Uploads a file and makes an artifact of it; bytes that are there are not sent again."""
        upload = transfer.upload_file(self._stub, path, progress=progress)
        request = pb.CreateArtifactRequest(
            artifact=pb.Artifact(sha256=upload.sha256, media_type=media_type, filename=filename)
        )
        with translated():
            return self._stub.CreateArtifact(request, timeout=60)

    def fetch_artifact(self, name: str, target: Path) -> None:
        """Writes ``artifacts/{artifact}`` to ``target``.

        Raises:
            TransferError: The file cannot be written, or is not what was stored.
        """
        with translated():
            artifact = self._stub.GetArtifact(pb.GetArtifactRequest(name=name), timeout=30)
        transfer.download_artifact(self._stub, artifact, target)

    def delete(self, dataset: str) -> None:
        """Deletes a dataset with its versions."""
        self._delete(dataset_name(dataset))

    def _delete(self, name: str, etag: str = "") -> None:
        with translated():
            self._stub.DeleteDataset(pb.DeleteDatasetRequest(name=name, etag=etag), timeout=60)

    def _exists(self, dataset: str) -> bool:
        try:
            with translated():
                self._stub.GetDataset(pb.GetDatasetRequest(name=dataset_name(dataset)), timeout=30)
        except NotFoundError:
            return False
        return True

    def _create(self, dataset: str) -> pb.Dataset | None:
        """The dataset; None when somebody else made it meanwhile."""
        new = pb.CreateDatasetRequest(dataset_id=dataset_name(dataset).removeprefix("datasets/"))
        return unless_it_exists(lambda: self._stub.CreateDataset(new, timeout=30))


class _Advance:
    """Bytes done over several files, from the bytes done within each."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._before = 0

    def within(self, done: int) -> None:
        """So many bytes of the current file are done."""
        if self._progress is not None:
            self._progress(self._before + done)

    def over(self, size_bytes: int) -> None:
        """The current file is done."""
        self._before += size_bytes
        self.within(0)


def _safe(path: str) -> PurePosixPath:
    """A version's path, once more checked: a server is not trusted with our file system."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts:
        raise TransferError(
            f"the version has a file at {path}, which is not below its folder",
            reason="DATASET_INVALID",
        )
    return pure


def _is_text(path: str) -> bool:
    """False for what the file system names in bytes that are not UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
