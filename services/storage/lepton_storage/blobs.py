"""Complete bytes: reading them by range, and forgetting those that nothing refers to."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import zlib
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from lepton_storage.errors import ReadOffset, StorageRequestInvalid
from lepton_storage.keys import Keyring
from lepton_storage.ports import ObjectStore, UploadRecords
from lepton_storage.records import Blob
from lepton_storage.sealed import SealedReader
from lepton_storage.threads import IoThreads

_BATCH = 100  # objects deleted before it is noted that they are


class Piece(NamedTuple):
    """A piece of a byte stream."""

    offset: int
    data: bytes
    crc32: int


class Blobs:
    """Reads and collects blobs."""

    def __init__(
        self, records: UploadRecords, objects: ObjectStore, keys: Keyring, threads: IoThreads
    ) -> None:
        self._records = records
        self._objects = objects
        self._keys = keys
        self._threads = threads
        self._given_up = asyncio.Event()

    @contextmanager
    def opened(self, blob: Blob) -> Iterator[SealedReader]:
        """The blob open for reading. Blocks: use a thread."""
        source = self._objects.open(blob.id)
        try:
            yield SealedReader(source, self._keys, blob)
        finally:
            source.close()

    async def read(self, blob: Blob, offset: int, limit: int) -> AsyncGenerator[Piece, None]:
        """The bytes from ``offset``, ``limit`` of them or all that follow when it is 0.

        One piece is read ahead of the consumer, never more.

        Raises:
            StorageRequestInvalid: A negative offset or limit.
            ReadOffset: ``offset`` is past the end.
            ObjectCorrupt: At the first piece that does not authenticate.
        """
        if offset < 0 or limit < 0:
            raise StorageRequestInvalid(
                "offset and limit cannot be negative", offset=offset, limit=limit
            )
        if offset > blob.size_bytes:
            raise ReadOffset(
                f"offset {offset} is past the end of the file, which has {blob.size_bytes} bytes",
                offset=offset,
                size_bytes=blob.size_bytes,
            )
        end = min(blob.size_bytes, offset + limit) if limit else blob.size_bytes
        source = _PieceSource(self, blob, offset, end)
        ahead = self._threads.submit(source.next)
        try:
            while (piece := await ahead) is not None:
                ahead = self._threads.submit(source.next)
                yield piece
        finally:
            await self._threads.finish(source.close)

    def collect_soon(self) -> None:
        """Tells whoever waits in :meth:`wait_to_collect` that something was given up."""
        self._given_up.set()

    async def wait_to_collect(self, seconds: float) -> None:
        """Returns when there may be something to collect, after ``seconds`` at the latest."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._given_up.wait(), seconds)
        # Before collecting: what is given up meanwhile wants another round.
        self._given_up.clear()

    def collect(self) -> int:
        """Deletes the blobs that nothing refers to; returns how many. Blocks: use a thread.

        What an upload ended in is kept until the upload expires, so that there is time to make
        a dataset version or an artifact of it.
        """
        collected = self._records.collect()
        # After the commit: what a crash in between leaves, the next round deletes. The object
        # store is never asked what it holds: only what these records gave up is deleted, so an
        # older or an empty database loses nothing, nor does whoever shares the bucket.
        condemned = self._records.condemned()
        for start in range(0, len(condemned), _BATCH):
            some = condemned[start : start + _BATCH]
            for id in some:
                self._objects.delete(id)
            self._records.executed(some)
        return len(collected)


class _PieceSource:
    """Hands out pieces in order; a consumer that goes away never closes it under a reader."""

    def __init__(self, blobs: Blobs, blob: Blob, offset: int, end: int) -> None:
        self._lock = threading.Lock()
        self._pieces = _pieces(blobs, blob, offset, end)

    def next(self) -> Piece | None:
        """The next piece; None after the last."""
        with self._lock:
            return next(self._pieces, None)

    def close(self) -> None:
        with self._lock:
            self._pieces.close()


def _pieces(blobs: Blobs, blob: Blob, offset: int, end: int) -> Generator[Piece, None, None]:
    with blobs.opened(blob) as reader:
        for data in reader.pieces(offset, end):
            yield Piece(offset, data, zlib.crc32(data))
            offset += len(data)
