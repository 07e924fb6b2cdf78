"""Uploads: resumable, durable, checked, kept once, and nothing in clear on the disk."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import zlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lepton_mesh.caller import Caller
from lepton_mesh.errors import LeptonError
from lepton_storage.blobs import Piece
from lepton_storage.bootstrap import Storage
from lepton_storage.encryption import HEADER_BYTES, SEGMENT_BYTES, TAG_BYTES, Header
from lepton_storage.errors import (
    BlobNotFound,
    DigestMismatch,
    DiskFull,
    UploadBusy,
    UploadNotFound,
    UploadRequestReused,
)
from tests.unit.storage.conftest import Open
from tests.unit.storage.traffic import pieces, read, send, sha256

MIB = 1 << 20


def noise(size: int) -> bytes:
    return os.urandom(size)


def on_disk(tmp_path: Path) -> list[Path]:
    """Everything below the objects directory but folders."""
    return files_below(tmp_path / "state" / "objects")


def files_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


async def broken(data: bytes, upto: int, step: int = MIB) -> AsyncIterator[Piece]:
    """A stream that breaks after ``upto`` bytes."""
    async for piece in pieces(data[:upto], 0, step):
        yield piece
    raise ConnectionError("the client is gone")


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


class FullDisk:
    """``os.write`` on a disk with so many bytes left."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, fd: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = os.write(fd, data[: self.room])
        self.room -= written
        return written


@pytest.mark.parametrize("room", [0, 10, HEADER_BYTES, HEADER_BYTES + 9, 2 * MIB])
async def test_a_disk_that_fills_up_keeps_what_was_durable(
    storage: Storage, ada: Caller, tmp_path: Path, room: int
) -> None:
    """The caller is told, and goes on once there is room; half a segment is never trusted."""
    data = noise(3 * MIB)
    begun = await storage.uploads.create(ada, len(data), sha256(data), "")
    staging = storage.uploads._staging
    staging.write = FullDisk(room)
    with pytest.raises(DiskFull) as raised:
        await storage.uploads.write(ada, begun.upload.id, pieces(data))
    assert raised.value.metadata["path"].startswith(str(tmp_path))
    staging.write = os.write
    progress = await storage.uploads.get(ada, begun.upload.id)
    assert progress.committed_bytes == (MIB if room > MIB else 0)
    rest = pieces(data, progress.committed_bytes)
    assert (await storage.uploads.write(ada, begun.upload.id, rest)).upload.complete
    assert await read(storage, ada, sha256(data)) == data


@pytest.mark.parametrize("damage", ["torn", "flipped"])
async def test_what_a_crash_left_of_a_segment_is_sealed_anew(
    storage: Storage, reopen: Open, ada: Caller, tmp_path: Path, damage: str
) -> None:
    """Intact segments are kept, under a fresh key: no segment number is used twice under one."""
    data = noise(3 * MIB)
    begun = await storage.uploads.create(ada, len(data), sha256(data), "")
    with pytest.raises(ConnectionError):
        await storage.uploads.write(ada, begun.upload.id, broken(data, 2 * MIB))
    path = tmp_path / "state" / "objects" / "uploads" / begun.upload.id
    header = Header.decode(path.read_bytes())
    with path.open("r+b") as file:
        if damage == "torn":
            file.truncate(header.sealed_offset(1) + 1000)
        else:
            file.seek(header.sealed_offset(1) + 1000)
            file.write(noise(8))
    storage = reopen()
    progress = await storage.uploads.write(ada, begun.upload.id, pieces(data[:MIB], MIB))
    assert progress.committed_bytes == MIB
    again = Header.decode(path.read_bytes())
    assert again.salt != header.salt
    assert path.stat().st_size == HEADER_BYTES + SEGMENT_BYTES + TAG_BYTES
    done = await storage.uploads.write(ada, begun.upload.id, pieces(data, MIB))
    assert done.upload.complete
    assert await read(storage, ada, sha256(data)) == data


async def test_a_crash_between_object_and_record_is_mended(
    storage: Storage, reopen: Open, ada: Caller, tmp_path: Path
) -> None:
    """An object that was stored and not recorded is recorded at the next start."""
    begun = await storage.uploads.create(ada, 4, sha256(b"data"), "")
    # As if the process had ended before the database was told.
    storage.uploads._record = lambda upload, key_id: (_ for _ in ()).throw(SystemError)
    with pytest.raises(SystemError):
        await storage.uploads.write(ada, begun.upload.id, pieces(b"data"))
    storage = reopen()
    storage.uploads.recover()
    assert (await storage.uploads.get(ada, begun.upload.id)).upload.complete
    assert await read(storage, ada, sha256(b"data")) == b"data"
    assert len(on_disk(tmp_path)) == 1


async def test_staged_bytes_without_an_upload_are_swept(
    storage: Storage, reopen: Open, ada: Caller, tmp_path: Path
) -> None:
    """At start, once they are older than an upload may be; whatever is not ours stays."""
    await send(storage, ada, b"kept")
    begun = await storage.uploads.create(ada, 4, sha256(b"part"), "")
    await storage.uploads.write(ada, begun.upload.id, pieces(b"pa"))
    root = tmp_path / "state" / "objects" / "uploads"
    for name in ("a" * 32, "notes.txt"):
        (root / name).write_bytes(b"of another")
    kept = set(on_disk(tmp_path))
    for name in ("b" * 32, f".{'c' * 32}.new"):
        (root / name).write_bytes(b"left over")
    for path in root.iterdir():
        if path.name != "a" * 32:
            os.utime(path, (0, 0))
    reopen().uploads.recover()
    assert set(on_disk(tmp_path)) == kept


@pytest.mark.parametrize("database", ["empty", "older"])
async def test_a_database_that_knows_less_deletes_no_object(
    reopen: Open, ada: Caller, tmp_path: Path, database: str
) -> None:
    """An empty or an older database in place of the right one loses nothing of the store."""
    state = tmp_path / "state"
    storage = reopen()
    await send(storage, ada, b"early")
    storage.close()
    shutil.copy(state / "storage.db", state / "old.db")
    storage = reopen()
    await send(storage, ada, b"late")
    storage.close()
    for path in (state / "objects" / "stored").rglob("*"):
        os.utime(path, (0, 0))
    (state / "objects" / "stored" / "notes.txt").write_bytes(b"a stray file")
    kept = set(on_disk(tmp_path))
    wrong = {"empty": state / "empty.db", "older": state / "old.db"}[database]
    storage = reopen(database_url=f"sqlite:///{wrong}")
    storage.uploads.recover()
    storage.maintain()
    assert set(on_disk(tmp_path)) == kept
    storage = reopen()
    storage.uploads.recover()
    assert await read(storage, ada, sha256(b"late")) == b"late"


async def test_what_a_crash_kept_from_being_deleted_goes_later(
    storage: Storage, reopen: Open, ada: Caller, tmp_path: Path
) -> None:
    """Records say which objects they gave up, until the store has deleted them."""
    await send(storage, ada, b"unused")
    begun = await storage.uploads.create(ada, 4, sha256(b"data"), "")
    storage.uploads._record = lambda upload, key_id: (_ for _ in ()).throw(SystemError)
    with pytest.raises(SystemError):
        await storage.uploads.write(ada, begun.upload.id, pieces(b"data"))
    storage.uploads._records.delete_expired(datetime.now(UTC) + timedelta(hours=25))
    storage.blobs._objects.delete = lambda id: (_ for _ in ()).throw(ConnectionError)
    with pytest.raises(ConnectionError):
        storage.blobs.collect()
    assert len(on_disk(tmp_path)) == 2
    reopen().maintain()
    assert on_disk(tmp_path) == []
    assert storage.uploads._records.condemned() == []


async def test_abandoned_uploads_are_forgotten(
    storage: Storage, ada: Caller, tmp_path: Path
) -> None:
    """When its time is up an upload goes, and what it ended in as well if nothing uses it."""
    begun = await storage.uploads.create(ada, 4, sha256(b"part"), "")
    await storage.uploads.write(ada, begun.upload.id, pieces(b"pa"))
    await send(storage, ada, b"unused")
    storage.maintain()
    assert len(on_disk(tmp_path)) == 3
    later = datetime.now(UTC) + timedelta(hours=25)
    storage.uploads._records.delete_expired = _at(storage.uploads._records.delete_expired, later)
    storage.maintain()
    assert on_disk(tmp_path) == []
    with pytest.raises(UploadNotFound):
        await storage.uploads.get(ada, begun.upload.id)


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


def _at(delete_expired, now):  # type: ignore[no-untyped-def]
    return lambda _: delete_expired(now)
