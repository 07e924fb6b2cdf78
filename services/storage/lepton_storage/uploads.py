"""Uploads: bytes on their way in, resumable, checked, and kept once per workspace."""

from __future__ import annotations

import contextlib
import logging
import re
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from lepton_mesh.caller import Caller
from lepton_mesh.errors import DataLoss
from lepton_storage.assembly import Assembly
from lepton_storage.blobs import Piece
from lepton_storage.encryption import (
    HEADER_BYTES,
    MAX_SEGMENTS,
    SEGMENT_BYTES,
    Header,
    SealBrokenError,
)
from lepton_storage.errors import (
    BlobNotFound,
    ChunkInvalid,
    DigestMismatch,
    KeyDestroyed,
    StorageRequestInvalid,
    UploadBusy,
    UploadComplete,
    UploadNotFound,
    UploadOffset,
)
from lepton_storage.ports import ObjectStore, UploadRecords
from lepton_storage.records import Blob, Upload
from lepton_storage.sealed import SealedReader
from lepton_storage.staging import Staging
from lepton_storage.texts import check_text
from lepton_storage.threads import IoThreads

log = logging.getLogger(__name__)

MAX_PIECE_BYTES = 4 << 20
_MAX_REQUEST_ID = 128
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Progress(NamedTuple):
    """An upload and how many of its bytes are durable."""

    upload: Upload
    committed_bytes: int


@dataclass(frozen=True, slots=True)
class UploadPolicy:
    """What an upload may be."""

    lifetime: timedelta = timedelta(hours=24)
    """How long an upload may take, and what it ended in stays without being used."""
    max_bytes: int = MAX_SEGMENTS * SEGMENT_BYTES


class Uploads:
    """Takes bytes in."""

    def __init__(
        self,
        records: UploadRecords,
        staging: Staging,
        objects: ObjectStore,
        threads: IoThreads,
        policy: UploadPolicy,
    ) -> None:
        self._records = records
        self._staging = staging
        self._objects = objects
        self._threads = threads
        self._policy = policy

    async def create(
        self, caller: Caller, size_bytes: int, sha256: str, request_id: str
    ) -> Progress:
        """Begins an upload, or finds the one of ``request_id``.

        Complete at once if the workspace has these bytes; a job always has to send them, for it
        would learn otherwise what its workspace holds.

        Raises StorageRequestInvalid, DiskFull, UploadRequestReused.
        """
        check_sha256(sha256)
        if not 0 <= size_bytes <= self._policy.max_bytes:
            raise StorageRequestInvalid(
                f"size_bytes {size_bytes} is not in 0 to {self._policy.max_bytes}",
                field="size_bytes",
            )
        check_text("request_id", request_id, _MAX_REQUEST_ID)
        now = datetime.now(UTC)
        asked = Upload(
            id=uuid.uuid4().hex,
            workspace=caller.workspace,
            creator=caller.subject,
            request_id=request_id,
            size_bytes=size_bytes,
            sha256=sha256,
            create_time=now,
            expire_time=now + self._policy.lifetime,
        )
        return await self._threads.run(self._create, asked, reuse=caller.kind != "job")

    async def get(self, caller: Caller, id: str) -> Progress:
        """Raises UploadNotFound."""
        return await self._threads.run(lambda: self._progress(self._find(caller, id)))

    async def write(self, caller: Caller, id: str, pieces: AsyncIterator[Piece]) -> Progress:
        """Takes pieces until they end; durable on return.

        If the stream breaks, or a piece is wrong, what came before is kept.

        Raises:
            UploadNotFound, UploadComplete, UploadBusy, DiskFull.
            UploadOffset: A piece does not begin where the last one ended.
            ChunkInvalid: A piece's checksum or length is wrong.
            DigestMismatch: All bytes came and are not those announced; nothing is kept.
        """
        upload = await self._threads.run(self._find, caller, id)
        if upload.complete:
            raise UploadComplete(
                f"upload '{id}' is complete; there is nothing more to send", upload=id
            )
        assembly = Assembly(self._staging, upload)
        try:
            await self._threads.run(assembly.open)
            await self._take(upload, assembly, pieces)
            return await self._threads.finish(self._finish, upload, assembly)
        finally:
            await self._threads.finish(assembly.close)

    async def delete(self, caller: Caller, id: str) -> None:
        """Forgets an upload and what was sent. Raises UploadNotFound, UploadBusy."""
        await self._threads.run(self._delete, caller, id)

    def blob(self, caller: Caller, sha256: str) -> Blob:
        """:meth:`blobs` for one digest."""
        return self.blobs(caller, [sha256])[sha256]

    def blobs(self, caller: Caller, sha256s: Sequence[str]) -> Mapping[str, Blob]:
        """The blobs of the caller's workspace with these digests; for jobs only what they sent.

        Blocks: use a thread. Raises BlobNotFound for the first that is not there,
        StorageRequestInvalid.
        """
        for sha256 in sha256s:
            check_sha256(sha256)
        creator = caller.subject if caller.kind == "job" else None
        found = self._records.find_blobs(caller.workspace, sha256s, creator)
        for sha256 in sha256s:
            if sha256 not in found:
                raise BlobNotFound(
                    f"no complete upload has the SHA-256 {sha256}; upload the file first",
                    sha256=sha256,
                )
        return found

    def recover(self) -> None:
        """Brings disk and database together after a crash. Blocks: use a thread.

        An object whose upload was not marked complete is, unless it is damaged: such an upload
        has to be sent again. Staged bytes that no upload has are deleted, if they are older than
        an upload may be.
        """
        for upload in self._records.incomplete():
            if not self._staging.path(upload.id).exists() and self._objects.exists(upload.id):
                self._recover(upload)
        # Listed first and looked up after: what becomes known in between is not deleted.
        ids = list(self._staging.ids(datetime.now(UTC) - self._policy.lifetime))
        known = self._records.known(ids)
        for id in ids:
            if id not in known:
                self._discard_unless_busy(id)

    def expire(self) -> int:
        """Forgets uploads whose time is up; returns how many. Blocks: use a thread."""
        expired = self._records.delete_expired(datetime.now(UTC))
        for upload in expired:
            if not upload.complete:
                self._discard_unless_busy(upload.id)
        return len(expired)

    def _recover(self, upload: Upload) -> None:
        try:
            with contextlib.closing(self._objects.open(upload.id)) as source:
                key_id = Header.decode(source.read(0, HEADER_BYTES)).key_id.hex()
                blob = Blob(upload.id, upload.workspace, upload.sha256, upload.size_bytes, key_id)
                SealedReader(source, self._staging.keys, blob)
            self._record(upload, key_id)
        except UploadNotFound:
            pass  # deleted meanwhile, by another instance
        except (SealBrokenError, DataLoss, KeyDestroyed) as error:
            log.warning(
                "the object of an upload is damaged; the upload has to be sent again",
                extra={"upload": upload.id, "workspace": upload.workspace, "error": str(error)},
            )

    def _create(self, asked: Upload, *, reuse: bool) -> Progress:
        upload = self._records.create(asked, reuse=reuse)
        progress = self._progress(upload)
        if not upload.complete:
            try:
                self._staging.check_space(upload.size_bytes - progress.committed_bytes)
            except BaseException:
                if upload.id == asked.id:
                    self._records.delete(upload.workspace, upload.id)
                raise
        return progress

    def _find(self, caller: Caller, id: str) -> Upload:
        upload = self._records.get(caller.workspace, id)
        if upload is None or (caller.kind == "job" and upload.creator != caller.subject):
            raise UploadNotFound(
                f"upload '{id}' does not exist, or its time was up; create it anew", upload=id
            )
        return upload

    def _progress(self, upload: Upload) -> Progress:
        if upload.complete:
            return Progress(upload, upload.size_bytes)
        return Progress(upload, self._staging.committed(upload))

    async def _take(self, upload: Upload, assembly: Assembly, pieces: AsyncIterator[Piece]) -> None:
        """Hands pieces to a thread, a segment's worth at a time, while the next ones arrive."""
        position = assembly.position
        batch: list[Piece] = []
        gathered = 0
        working = None
        async for piece in pieces:
            _check_place(upload, piece, position)
            position += len(piece.data)
            gathered += len(piece.data)
            batch.append(piece)
            if gathered >= SEGMENT_BYTES:
                if working is not None:
                    await working
                working = self._threads.submit(assembly.absorb, batch)
                batch, gathered = [], 0
        if working is not None:
            await working
        if batch:
            await self._threads.run(assembly.absorb, batch)

    def _finish(self, upload: Upload, assembly: Assembly) -> Progress:
        with assembly.settled() as staged:
            if not staged.whole:
                return Progress(upload, staged.committed)
            if staged.digest() != upload.sha256:
                staged.discard()
                self._records.delete(upload.workspace, upload.id)
                raise DigestMismatch(
                    f"the bytes sent have the SHA-256 {staged.digest()}, announced was "
                    f"{upload.sha256}; nothing was kept: check the file and create the upload anew",
                    upload=upload.id,
                )
            self._objects.put_file(upload.id, self._staging.path(upload.id))
            done = self._record(upload, staged.key_id)
            self._staging.forget(upload.id)
            return Progress(done, done.size_bytes)

    def _record(self, upload: Upload, key_id: str) -> Upload:
        blob = Blob(upload.id, upload.workspace, upload.sha256, upload.size_bytes, key_id)
        try:
            done = self._records.complete(upload, blob)
        except UploadNotFound:
            self._objects.delete(upload.id)
            raise
        if done.blob_id != upload.id:
            self._objects.delete(upload.id)  # the workspace has these bytes already
        return done

    def _delete(self, caller: Caller, id: str) -> None:
        upload = self._find(caller, id)
        if not upload.complete:
            self._staging.discard(id)
        self._records.delete(caller.workspace, id)

    def _discard_unless_busy(self, id: str) -> None:
        # Whoever writes to it will find it gone at the end, and a later start sweeps the rest.
        with contextlib.suppress(UploadBusy, UploadNotFound):
            self._staging.discard(id)


def check_sha256(value: str) -> None:
    """Raises StorageRequestInvalid."""
    if not _SHA256.fullmatch(value):
        raise StorageRequestInvalid(
            "sha256 is not 64 lower-case hex digits; send what `sha256sum FILE` prints",
            field="sha256",
        )


def _check_place(upload: Upload, piece: Piece, position: int) -> None:
    if len(piece.data) > MAX_PIECE_BYTES:
        raise ChunkInvalid(
            f"the piece at offset {piece.offset} has {len(piece.data)} bytes; send at most "
            f"{MAX_PIECE_BYTES} at a time",
            offset=piece.offset,
        )
    if piece.offset != position:
        raise UploadOffset(
            f"upload '{upload.id}' goes on at offset {position}, not {piece.offset}; get the "
            "upload and go on from its committed_bytes",
            upload=upload.id,
            offset=piece.offset,
            expected=position,
        )
    if position + len(piece.data) > upload.size_bytes:
        raise ChunkInvalid(
            f"upload '{upload.id}' was announced with {upload.size_bytes} bytes and more were "
            "sent; create an upload with the right size",
            upload=upload.id,
        )
