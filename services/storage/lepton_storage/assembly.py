"""Pieces of a stream on their way into a staged upload."""

from __future__ import annotations

import contextlib
import threading
import zlib
from collections.abc import Iterator
from typing import Literal

from lepton_mesh.errors import LeptonError
from lepton_storage.blobs import Piece
from lepton_storage.errors import ChunkInvalid
from lepton_storage.records import Upload
from lepton_storage.staging import StagedUpload, Staging


class Assembly:
    """Makes segments of pieces. Each method runs in a thread, one at a time.

    Whoever makes one closes it, whatever became of :meth:`open`: a caller that goes away while
    its file is being opened and locked leaves no lock behind.
    """

    _staged: StagedUpload
    """From :meth:`open` on."""

    def __init__(self, staging: Staging, upload: Upload) -> None:
        self._staging = staging
        self._upload = upload
        self._buffer = bytearray()
        self._lock = threading.Lock()
        self._state: Literal["new", "open", "failed", "settled", "closed"] = "new"
        self.position = 0
        """Where the next piece begins."""

    def open(self) -> None:
        """Raises UploadBusy, UploadNotFound, DiskFull."""
        with self._lock:
            if self._state == "closed":
                return  # the caller went away while this waited for a thread
            self._staged = StagedUpload.open(self._staging, self._upload)
            self._buffer += self._staged.tail
            self.position = self._staged.committed
            self._state = "open"

    def absorb(self, pieces: list[Piece]) -> None:
        """Raises ChunkInvalid, DiskFull."""
        with self._lock:
            if self._state != "open":
                return  # the stream is over and this piece was still waiting for a thread
            for piece in pieces:
                if zlib.crc32(piece.data) != piece.crc32:
                    raise ChunkInvalid(
                        f"the piece at offset {piece.offset} does not have the CRC-32 it was sent "
                        "with; send it again",
                        offset=piece.offset,
                    )
                self._add(piece.data)

    @contextlib.contextmanager
    def settled(self) -> Iterator[StagedUpload]:
        """Everything absorbed is durable inside."""
        with self._lock:
            self._settle()
            yield self._staged

    def close(self) -> None:
        """Keeps what came if the stream broke, and lets the next writer in."""
        with self._lock:
            try:
                if self._state == "open":
                    # Nothing was promised about these bytes; the error on its way says more.
                    with contextlib.suppress(LeptonError, OSError):
                        self._settle()
            finally:
                if self._state not in ("new", "closed"):
                    self._staged.close()
                self._state = "closed"

    def _add(self, data: bytes) -> None:
        if not data:
            return
        if not self._buffer and len(data) == self._staged.next_length:
            self._append(data)  # the usual case, without a copy
            return
        self._buffer += data
        while not self._staged.whole and len(self._buffer) >= self._staged.next_length:
            length = self._staged.next_length
            self._append(bytes(self._buffer[:length]))
            del self._buffer[:length]

    def _append(self, segment: bytes) -> None:
        try:
            self._staged.append(segment)
        except BaseException:
            self._state = "failed"  # the file may end in half a segment: no more here
            raise

    def _settle(self) -> None:
        if not self._staged.whole and self._staged.next_length == 0:
            self._append(b"")  # an empty file is one empty segment
        self._staged.commit(bytes(self._buffer))
        self._state = "settled"
