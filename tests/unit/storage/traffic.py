"""Bytes in and out of the storage domain, as clients move them."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import AsyncIterator

from lepton_mesh.caller import Caller
from lepton_storage.blobs import Piece
from lepton_storage.bootstrap import Storage
from lepton_storage.uploads import Progress


async def pieces(data: bytes, start: int = 0, step: int = 1 << 20) -> AsyncIterator[Piece]:
    """``data`` from ``start`` on, as a client sends it."""
    for offset in range(start, len(data), step) or (start,):
        piece = data[offset : offset + step]
        yield Piece(offset, piece, zlib.crc32(piece))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def send(storage: Storage, caller: Caller, data: bytes, step: int = 1 << 20) -> Progress:
    """Uploads ``data``; returns the complete upload."""
    progress = await storage.uploads.create(caller, len(data), sha256(data), "")
    if progress.upload.complete:
        return progress
    return await storage.uploads.write(
        caller, progress.upload.id, pieces(data, progress.committed_bytes, step)
    )


async def read(storage: Storage, caller: Caller, digest: str) -> bytes:
    """The bytes of a blob."""
    blob = storage.uploads.blob(caller, digest)
    return b"".join([piece.data async for piece in storage.blobs.read(blob, 0, 0)])
