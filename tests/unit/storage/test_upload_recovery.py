"""Uploads after a full disk, a crash, or a database that knows less: nothing is lost or left."""

from __future__ import annotations

import errno
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lepton_mesh.caller import Caller
from lepton_storage.bootstrap import Storage
from lepton_storage.encryption import HEADER_BYTES, SEGMENT_BYTES, TAG_BYTES, Header
from lepton_storage.errors import (
    DiskFull,
    UploadNotFound,
)
from tests.unit.storage.conftest import Open
from tests.unit.storage.traffic import (
    broken,
    noise,
    on_disk,
    pieces,
    read,
    send,
    sha256,
)

MIB = 1 << 20


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


def _at(delete_expired, now):
    return lambda _: delete_expired(now)
