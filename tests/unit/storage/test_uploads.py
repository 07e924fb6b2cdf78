"""Uploads: resumable, durable, checked, kept once, and nothing in clear on the disk."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lepton_mesh.caller import Caller
from lepton_mesh.errors import LeptonError
from lepton_storage.blobs import Piece
from lepton_storage.bootstrap import Storage
from lepton_storage.errors import (
    BlobNotFound,
    DigestMismatch,
    DiskFull,
    UploadBusy,
    UploadNotFound,
    UploadRequestReused,
)
from tests.unit.storage.conftest import Open
from tests.unit.storage.traffic import (
    broken,
    files_below,
    noise,
    on_disk,
    pieces,
    read,
    send,
    sha256,
)

MIB = 1 << 20


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB])
@pytest.mark.parametrize("step", [100_003, MIB, 3 * MIB])
async def test_bytes_come_back(storage: Storage, ada: Caller, size: int, step: int) -> None:
    """What was sent, in whatever pieces, is what is read."""
    data = noise(size)
    progress = await send(storage, ada, data, step)
    assert progress.upload.complete
    assert progress.committed_bytes == size
    assert await read(storage, ada, sha256(data)) == data


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("upto", [0, 5, MIB, 2 * MIB + 5, 3 * MIB])
async def test_a_broken_stream_goes_on_where_it_stopped(
    storage: Storage, reopen: Open, ada: Caller, upto: int, restart: bool
) -> None:
    """All that arrived before the break is kept, across a restart of the service too."""
    data = noise(3 * MIB + 17)
    begun = await storage.uploads.create(ada, len(data), sha256(data), "")
    with pytest.raises(ConnectionError):
        await storage.uploads.write(ada, begun.upload.id, broken(data, upto, 300_000))
    if restart:
        storage = reopen()
        storage.uploads.recover()
    progress = await storage.uploads.get(ada, begun.upload.id)
    # Pieces are handed over a segment's worth at a time; the last of them may be lost.
    assert upto - MIB - 300_000 < progress.committed_bytes <= upto
    rest = pieces(data, progress.committed_bytes)
    progress = await storage.uploads.write(ada, begun.upload.id, rest)
    assert progress.upload.complete
    assert await read(storage, ada, sha256(data)) == data


async def test_many_short_streams_make_one_file(storage: Storage, ada: Caller) -> None:
    """Each stream, however short, is durable when it is answered."""
    data = noise(2 * MIB + 100)
    begun = await storage.uploads.create(ada, len(data), sha256(data), "")
    at = 0
    while at < len(data):
        end = min(at + 400_000, len(data))
        progress = await storage.uploads.write(ada, begun.upload.id, pieces(data[:end], at))
        assert progress.committed_bytes == end
        assert (await storage.uploads.get(ada, begun.upload.id)).committed_bytes == end
        at = end
    assert progress.upload.complete
    assert await read(storage, ada, sha256(data)) == data


async def test_nothing_lies_on_the_disk_in_clear(
    storage: Storage, ada: Caller, tmp_path: Path
) -> None:
    """Neither complete objects nor uploads in progress show any of their bytes."""
    data = b"top secret " * 300_000
    await send(storage, ada, data)
    begun = await storage.uploads.create(ada, len(data) + 1, sha256(data + b"."), "")
    await storage.uploads.write(ada, begun.upload.id, pieces(data[: MIB + 1000]))
    assert len(on_disk(tmp_path)) == 3  # an object, an upload and its tail
    for path in files_below(tmp_path):
        assert b"top secret" not in path.read_bytes(), path


async def test_wrong_bytes_leave_nothing(storage: Storage, ada: Caller, tmp_path: Path) -> None:
    """When the digest is not the announced one the upload is gone, bytes and all."""
    begun = await storage.uploads.create(ada, 4, sha256(b"true"), "")
    with pytest.raises(DigestMismatch) as raised:
        await storage.uploads.write(ada, begun.upload.id, pieces(b"fake"))
    assert raised.value.wire.grpc_name == "INVALID_ARGUMENT"  # theirs, not a loss of ours
    assert on_disk(tmp_path) == []
    with pytest.raises(UploadNotFound):
        await storage.uploads.get(ada, begun.upload.id)
    with pytest.raises(BlobNotFound):
        storage.uploads.blob(ada, sha256(b"fake"))


async def test_one_writer_at_a_time(storage: Storage, ada: Caller) -> None:
    """A second stream to the same upload is refused while the first one runs."""
    data = noise(2 * MIB)
    begun = await storage.uploads.create(ada, len(data), sha256(data), "")
    go_on = asyncio.Event()
    running = asyncio.Event()

    async def slowly() -> AsyncIterator[Piece]:
        async for piece in pieces(data):
            yield piece
            running.set()
            await go_on.wait()

    first = asyncio.create_task(storage.uploads.write(ada, begun.upload.id, slowly()))
    await running.wait()
    with pytest.raises(UploadBusy):
        await storage.uploads.write(ada, begun.upload.id, pieces(data))
    with pytest.raises(UploadBusy):
        await storage.uploads.delete(ada, begun.upload.id)
    go_on.set()
    assert (await first).upload.complete


async def test_a_cancelled_stream_lets_the_next_one_in(storage: Storage, ada: Caller) -> None:
    """A client that goes away leaves neither a lock nor a gap."""
    data = noise(3 * MIB)
    begun = await storage.uploads.create(ada, len(data), sha256(data), "")
    arrived = asyncio.Event()

    async def hanging() -> AsyncIterator[Piece]:
        async for piece in pieces(data[: 2 * MIB]):
            yield piece
        arrived.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(storage.uploads.write(ada, begun.upload.id, hanging()))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    at = (await storage.uploads.get(ada, begun.upload.id)).committed_bytes
    progress = await storage.uploads.write(ada, begun.upload.id, pieces(data, at))
    assert progress.upload.complete


async def test_bytes_are_kept_once_per_workspace(
    storage: Storage, ada: Caller, eve: Caller, tmp_path: Path
) -> None:
    """The same bytes need no second sending within a workspace, and tell nothing outside it."""
    await send(storage, ada, b"shared")
    again = await storage.uploads.create(ada, 6, sha256(b"shared"), "")
    assert again.upload.complete
    theirs = await storage.uploads.create(eve, 6, sha256(b"shared"), "")
    assert not theirs.upload.complete
    assert theirs.committed_bytes == 0
    with pytest.raises(BlobNotFound):
        storage.uploads.blob(eve, sha256(b"shared"))
    with pytest.raises(UploadNotFound):
        await storage.uploads.get(eve, again.upload.id)
    with pytest.raises(UploadNotFound):
        await storage.uploads.write(eve, again.upload.id, pieces(b"shared"))
    assert len(on_disk(tmp_path)) == 1


async def test_two_uploads_of_the_same_bytes_end_in_one_blob(
    storage: Storage, ada: Caller, tmp_path: Path
) -> None:
    """Both complete, and one object is kept."""
    begun = [await storage.uploads.create(ada, 4, sha256(b"same"), "") for _ in range(2)]
    done = [await storage.uploads.write(ada, one.upload.id, pieces(b"same")) for one in begun]
    assert done[0].upload.blob_id == done[1].upload.blob_id
    assert len(on_disk(tmp_path)) == 1


async def test_a_job_learns_nothing_from_digests(
    storage: Storage, ada: Caller, job: Caller
) -> None:
    """A job sends its bytes even if they are there, and sees its own uploads only."""
    theirs = await send(storage, ada, b"shared")
    with pytest.raises(BlobNotFound):
        storage.uploads.blob(job, sha256(b"shared"))
    with pytest.raises(UploadNotFound):
        await storage.uploads.get(job, theirs.upload.id)
    begun = await storage.uploads.create(job, 6, sha256(b"shared"), "")
    assert not begun.upload.complete
    await storage.uploads.write(job, begun.upload.id, pieces(b"shared"))
    assert storage.uploads.blob(job, sha256(b"shared")).sha256 == sha256(b"shared")


async def test_a_request_id_finds_its_upload(storage: Storage, ada: Caller, eve: Caller) -> None:
    """The same id gives the same upload to the same caller, and is not used for other bytes."""
    first = await storage.uploads.create(ada, 4, sha256(b"same"), "r1")
    await storage.uploads.write(ada, first.upload.id, pieces(b"sa"))
    again = await storage.uploads.create(ada, 4, sha256(b"same"), "r1")
    assert again == (first.upload, 2)
    assert (
        await storage.uploads.create(eve, 4, sha256(b"same"), "r1")
    ).upload.id != again.upload.id
    with pytest.raises(UploadRequestReused):
        await storage.uploads.create(ada, 5, sha256(b"other"), "r1")


BAD = {
    "a gap": (lambda: Piece(1, b"x", zlib.crc32(b"x")), "UPLOAD_OFFSET"),
    "a wrong checksum": (lambda: Piece(0, b"x", 1), "CHUNK_INVALID"),
    "too many bytes": (lambda: Piece(0, b"x" * 11, zlib.crc32(b"x" * 11)), "CHUNK_INVALID"),
    "too large a piece": (lambda: Piece(0, bytes(5 * MIB), 0), "CHUNK_INVALID"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_wrong_piece_is_refused(storage: Storage, ada: Caller, name: str) -> None:
    """The piece is refused, and the upload goes on from before it."""
    make, reason = BAD[name]
    data = b"0123456789"
    begun = await storage.uploads.create(ada, len(data), sha256(data), "")

    async def wrong() -> AsyncIterator[Piece]:
        yield make()

    with pytest.raises(LeptonError) as raised:
        await storage.uploads.write(ada, begun.upload.id, wrong())
    assert raised.value.reason == reason
    assert (await storage.uploads.get(ada, begun.upload.id)).committed_bytes == 0
    assert (await storage.uploads.write(ada, begun.upload.id, pieces(data))).upload.complete


@pytest.mark.parametrize(
    ("size", "digest", "request_id"),
    [
        (-1, "0" * 64, ""),
        (1 << 60, "0" * 64, ""),
        (1, "0" * 63, ""),
        (1, "A" * 64, ""),
        (1, "0" * 64, "r" * 200),
        (1, "0" * 64, "r\0"),
    ],
)
async def test_a_malformed_upload_is_refused(
    storage: Storage, ada: Caller, size: int, digest: str, request_id: str
) -> None:
    """Sizes, digests and ids that cannot be are refused before anything is stored."""
    with pytest.raises(LeptonError) as raised:
        await storage.uploads.create(ada, size, digest, request_id)
    assert raised.value.reason == "STORAGE_REQUEST_INVALID"


async def test_an_upload_that_leaves_no_reserve_is_refused(reopen: Open, ada: Caller) -> None:
    """A file that does not fit is refused before a byte is sent, and leaves no upload."""
    storage = reopen(disk_reserve_bytes=1 << 60)
    with pytest.raises(DiskFull, match="no space left on the disk that holds"):
        await storage.uploads.create(ada, 1, sha256(b"x"), "r1")
    storage = reopen()
    assert (await storage.uploads.create(ada, 2, sha256(b"xy"), "r1")).committed_bytes == 0


async def test_a_deleted_upload_is_gone(storage: Storage, ada: Caller, tmp_path: Path) -> None:
    """Deleting an upload deletes what was sent."""
    begun = await storage.uploads.create(ada, 4, sha256(b"part"), "")
    await storage.uploads.write(ada, begun.upload.id, pieces(b"pa"))
    await storage.uploads.delete(ada, begun.upload.id)
    assert on_disk(tmp_path) == []
    with pytest.raises(UploadNotFound):
        await storage.uploads.get(ada, begun.upload.id)


async def test_damage_in_the_store_is_data_loss(
    storage: Storage, ada: Caller, tmp_path: Path
) -> None:
    """A changed, missing or exchanged object is never served."""
    data = noise(2 * MIB)
    await send(storage, ada, data)
    other = await send(storage, ada, noise(2 * MIB))
    blob = storage.uploads.blob(ada, sha256(data))
    path = tmp_path / "state" / "objects" / "stored" / blob.id[:2] / blob.id
    good = path.read_bytes()
    assert other.upload.blob_id
    stranger = storage.uploads._objects._path(other.upload.blob_id).read_bytes()
    for bad in (
        good[:-1],
        good[:-1] + bytes([good[-1] ^ 1]),
        good[: MIB // 2],
        stranger,
        b"",
        None,
    ):
        if bad is None:
            path.unlink()
        else:
            path.write_bytes(bad)
        with pytest.raises(LeptonError) as raised:
            await read(storage, ada, sha256(data))
        assert raised.value.wire.grpc_name == "DATA_LOSS"


@pytest.mark.parametrize(
    ("offset", "limit", "reason"),
    [(-1, 0, "STORAGE_REQUEST_INVALID"), (0, -1, "STORAGE_REQUEST_INVALID"), (5, 0, "READ_OFFSET")],
)
async def test_a_range_that_is_none_is_refused(
    storage: Storage, ada: Caller, offset: int, limit: int, reason: str
) -> None:
    """Negative ranges are invalid, and past the end is out of range."""
    await send(storage, ada, b"four")
    blob = storage.uploads.blob(ada, sha256(b"four"))
    with pytest.raises(LeptonError) as raised:
        [piece async for piece in storage.blobs.read(blob, offset, limit)]
    assert raised.value.reason == reason
    assert [piece async for piece in storage.blobs.read(blob, 4, 0)] == []
    assert [piece.data async for piece in storage.blobs.read(blob, 1, 2)] == [b"ou"]
