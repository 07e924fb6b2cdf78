"""Bytes in and out of the storage domain, as clients move them."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

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


def noise(size: int) -> bytes:
    return os.urandom(size)


def on_disk(tmp_path: Path) -> list[Path]:
    """Everything below the objects directory but folders."""
    return files_below(tmp_path / "state" / "objects")


def files_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


async def broken(data: bytes, upto: int, step: int = 1 << 20) -> AsyncIterator[Piece]:
    """A stream that breaks after ``upto`` bytes."""
    async for piece in pieces(data[:upto], 0, step):
        yield piece
    raise ConnectionError("the client is gone")
