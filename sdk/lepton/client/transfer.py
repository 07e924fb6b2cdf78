"""Files to and from storage: resumed where they stopped, checked end to end.

An upload that breaks goes on from what the server has; a download that breaks goes on from
what lies beside its target, in ``.<name>.<digest>.part``. The target itself appears only when it
is whole and has its digest.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from io import BufferedRandom, BufferedReader
from pathlib import Path

import grpc

from lepton.api.storage.v1 import storage_pb2 as pb
from lepton.api.storage.v1.storage_pb2_grpc import StorageServiceStub
from lepton.client.errors import TransferError, from_rpc_error, unwritable

PIECE_BYTES = 1 << 20
"""The server's unit: pieces that begin and end at multiples of it cost no copy there."""

Progress = Callable[[int], None]
"""Called with the bytes of the file that are done; may come from another thread."""
Metadata = Sequence[tuple[str, str]]
Read = Callable[[int], Iterator[pb.DataChunk]]
"""Begins a stream of chunks at an offset."""

_CALL_SECONDS = 30
_ATTEMPTS = 8  # in a row without a byte of progress: about twenty seconds
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
# What may go well when tried again: the way there broke, the server drains, its disk has not
# yet let go of the broken stream.
_TRANSIENT_CODES = frozenset({grpc.StatusCode.UNAVAILABLE})
_TRANSIENT_REASONS = frozenset({"UPLOAD_BUSY", "UPLOAD_OFFSET"})


def upload_file(
    stub: StorageServiceStub,
    path: Path,
    *,
    metadata: Metadata = (),
    progress: Progress | None = None,
) -> pb.Upload:
    """Uploads a file; returns at once if the workspace has its bytes already.

    Raises:
        TransferError: The file cannot be read, or changes meanwhile.
        ApiError: The server refused, or could not be reached for too long.
    """
    try:
        with path.open("rb") as file:
            return _upload(_UploadCalls(stub, metadata), file, path, progress)
    except OSError as error:
        raise TransferError(f"cannot read {path}: {error.strerror or error}") from error


def make_folder(path: Path) -> None:
    """Makes a folder that files are to be written to, with those above it.

    Raises:
        TransferError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


def download_dataset_file(
    stub: StorageServiceStub,
    version: str,
    file: pb.DataFile,
    target: Path,
    *,
    metadata: Metadata = (),
    progress: Progress | None = None,
) -> None:
    """Writes one file of a version, ``datasets/{dataset}/versions/{n}``, to ``target``.

    Raises:
        TransferError: The target cannot be written, or what came is not what was stored.
        ApiError: The server refused, or could not be reached for too long.
    """

    def read(offset: int) -> Iterator[pb.DataChunk]:
        request = pb.ReadDatasetFileRequest(name=version, path=file.path, offset=offset)
        return stub.ReadDatasetFile(request, metadata=tuple(metadata))

    _download(read, file.size_bytes, file.sha256, target, progress)


def download_artifact(
    stub: StorageServiceStub,
    artifact: pb.Artifact,
    target: Path,
    *,
    metadata: Metadata = (),
    progress: Progress | None = None,
) -> None:
    """Writes an artifact, as GetArtifact returned it, to ``target``; raises as above."""

    def read(offset: int) -> Iterator[pb.DataChunk]:
        request = pb.ReadArtifactRequest(name=artifact.name, offset=offset)
        return stub.ReadArtifact(request, metadata=tuple(metadata))

    _download(read, artifact.size_bytes, artifact.sha256, target, progress)


class _Patience:
    """Decides how often a broken call is tried again; progress renews it."""

    def __init__(self) -> None:
        self._failures = 0

    def renew(self) -> None:
        self._failures = 0

    def wait(self, error: grpc.RpcError) -> None:
        """Waits before the next attempt, or raises an ApiError when there is to be none."""
        failure = from_rpc_error(error)
        self._failures += 1
        transient = failure.code in _TRANSIENT_CODES or failure.reason in _TRANSIENT_REASONS
        if not transient or self._failures >= _ATTEMPTS:
            raise failure from None
        pause = min(_FIRST_PAUSE_SECONDS * 2**self._failures, _LONGEST_PAUSE_SECONDS)
        time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  spreads clients out


def _upload(
    calls: _UploadCalls, file: BufferedReader, path: Path, progress: Progress | None
) -> pb.Upload:
    size, sha256 = _measure(file)
    upload = calls.create(size, sha256)
    while not upload.complete:
        committed = upload.committed_bytes
        requests = _requests(upload.name, file, committed, size, progress)
        try:
            upload = calls.write(requests)
        except grpc.RpcError as error:
            calls.patience.wait(error)
            upload = calls.get(upload.name)
        else:
            if not upload.complete and upload.committed_bytes == committed:
                raise TransferError(
                    f"{path} changed while it was uploaded; leave it alone and try again"
                )
        if upload.committed_bytes > committed:
            calls.patience.renew()
    if progress:
        progress(size)
    return upload


class _UploadCalls:
    """The calls of one upload; create and get are tried again by themselves."""

    def __init__(self, stub: StorageServiceStub, metadata: Metadata) -> None:
        self._stub = stub
        self._metadata = tuple(metadata)
        self.patience = _Patience()

    def create(self, size: int, sha256: str) -> pb.Upload:
        # Named after the bytes: a second attempt, even of another process, goes on with the
        # upload that the first one left.
        request = pb.CreateUploadRequest(
            size_bytes=size, sha256=sha256, request_id=f"file-{sha256}-{size}"
        )
        while True:
            try:
                return self._stub.CreateUpload(
                    request, metadata=self._metadata, timeout=_CALL_SECONDS
                )
            except grpc.RpcError as error:
                self.patience.wait(error)

    def get(self, name: str) -> pb.Upload:
        request = pb.GetUploadRequest(name=name)
        while True:
            try:
                return self._stub.GetUpload(request, metadata=self._metadata, timeout=_CALL_SECONDS)
            except grpc.RpcError as error:
                self.patience.wait(error)

    def write(self, requests: Iterator[pb.WriteUploadRequest]) -> pb.Upload:
        return self._stub.WriteUpload(requests, metadata=self._metadata)


def _requests(
    name: str, file: BufferedReader, offset: int, size: int, progress: Progress | None
) -> Iterator[pb.WriteUploadRequest]:
    """The rest of the file in pieces; one empty piece if there is none."""
    file.seek(offset)
    first = True
    while first or offset < size:
        # Never beyond the announced size, should the file have grown.
        length = min(PIECE_BYTES - offset % PIECE_BYTES, size - offset)
        data = file.read(length)
        if length and not data:
            return  # the file shrank: the server will say how much it has
        chunk = pb.DataChunk(offset=offset, data=data, crc32=zlib.crc32(data))
        yield pb.WriteUploadRequest(name=name if first else "", chunk=chunk)
        first = False
        offset += len(data)
        if progress:
            progress(offset)


def _download(read: Read, size: int, sha256: str, target: Path, progress: Progress | None) -> None:
    part = target.with_name(f".{target.name}.{sha256[:16]}.part")
    try:
        with part.open("a+b") as file:
            found = _receive(read, _Received(file, size, progress))
            file.flush()
            os.fsync(file.fileno())
        if found != sha256:
            part.unlink()
            raise TransferError(
                f"{target} was not written: the bytes received have the SHA-256 {found} and not "
                f"{sha256}; try again",
                reason="DOWNLOAD_DAMAGED",
            )
        part.replace(target)
        _sync(target.parent)
    except OSError as error:
        raise unwritable(target, error) from error


class _Received:
    """What of a file is there: its length and its digest so far."""

    def __init__(self, file: BufferedRandom, size: int, progress: Progress | None) -> None:
        self.size = size
        self.done = 0
        self.digest = hashlib.sha256()
        self._file = file
        self._progress = progress
        if file.seek(0, os.SEEK_END) > size:  # cannot be a beginning of it
            file.truncate(0)
        file.seek(0)
        while piece := file.read(PIECE_BYTES):
            self._count(piece)

    def add(self, data: bytes) -> None:
        self._file.write(data)
        self._count(data)

    def _count(self, data: bytes) -> None:
        self.digest.update(data)
        self.done += len(data)
        if self._progress:
            self._progress(self.done)


def _receive(read: Read, received: _Received) -> str:
    """Receives the rest of the file, in as many streams as it takes; returns its SHA-256."""
    patience = _Patience()
    while received.done < received.size:
        try:
            for chunk in read(received.done):
                if chunk.offset != received.done or zlib.crc32(chunk.data) != chunk.crc32:
                    raise TransferError(
                        "a piece of the download is damaged; try again",
                        reason="DOWNLOAD_DAMAGED",
                    )
                received.add(chunk.data)
                patience.renew()
        except grpc.RpcError as error:
            patience.wait(error)
        else:
            if received.done < received.size:
                raise TransferError(
                    f"the download ended after {received.done} of {received.size} bytes; try again",
                    reason="DOWNLOAD_DAMAGED",
                )
    return received.digest.hexdigest()


def _measure(file: BufferedReader) -> tuple[int, str]:
    """Size and SHA-256, in one reading."""
    digest = hashlib.file_digest(file, "sha256")
    return file.tell(), digest.hexdigest()


def _sync(directory: Path) -> None:
    """Makes a rename durable where directories can be synchronized."""
    if hasattr(os, "O_DIRECTORY"):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
