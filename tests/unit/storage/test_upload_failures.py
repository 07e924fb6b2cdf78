"""Streams that end while something fails or is still being opened: no file and no lock stays."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from pathlib import Path

import pytest

from lepton_mesh.caller import Caller
from lepton_storage.bootstrap import Storage
from lepton_storage.errors import ObjectCorrupt
from lepton_storage.staging import StagedUpload, Staging
from tests.unit.storage.conftest import Open
from tests.unit.storage.traffic import broken, noise, pieces, read, sha256

MIB = 1 << 20


def open_files(upload: str) -> list[str]:
    """This process's descriptors of an upload's files."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that lists them
            links.append(str(entry.readlink()))
    return [link for link in links if upload in link]


async def test_a_caller_that_leaves_while_its_upload_is_opened_keeps_no_lock(
    storage: Storage, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening runs to its end in its thread; what it opened is closed, the next one is let in."""
    data = noise(2 * MIB)
    begun = await storage.uploads.create(ada, len(data), sha256(data), "")
    opening, go_on = threading.Event(), threading.Event()
    real = StagedUpload.open

    def slowly(staging: Staging, upload: object) -> StagedUpload:
        opened = real(staging, upload)
        opening.set()
        go_on.wait()
        return opened

    monkeypatch.setattr(StagedUpload, "open", slowly)
    task = asyncio.create_task(storage.uploads.write(ada, begun.upload.id, pieces(data)))
    await asyncio.to_thread(opening.wait)
    task.cancel()
    await asyncio.sleep(0)  # the cancellation is delivered before the file is open
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert open_files(begun.upload.id) == []
    monkeypatch.undo()
    assert (await storage.uploads.write(ada, begun.upload.id, pieces(data))).upload.complete


async def test_a_failure_at_the_end_of_a_broken_stream_keeps_no_lock(
    storage: Storage, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fails while what came is kept, the file is closed."""
    data = noise(2 * MIB)
    begun = await storage.uploads.create(ada, len(data), sha256(data), "")

    def fail(*_: object) -> None:
        raise RuntimeError("the database went away")

    monkeypatch.setattr(StagedUpload, "commit", fail)
    with pytest.raises(RuntimeError):
        await storage.uploads.write(ada, begun.upload.id, broken(data, MIB + 1000, 300_000))
    assert open_files(begun.upload.id) == []
    monkeypatch.undo()
    at = (await storage.uploads.get(ada, begun.upload.id)).committed_bytes
    assert (await storage.uploads.write(ada, begun.upload.id, pieces(data, at))).upload.complete
    assert await read(storage, ada, sha256(data)) == data


async def test_a_failure_after_segments_were_sealed_anew_keeps_no_file(
    storage: Storage,
    reopen: Open,
    ada: Caller,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The failure is told as it is; both the file that was and the one in its place are closed."""
    data = noise(3 * MIB)
    begun = await storage.uploads.create(ada, len(data), sha256(data), "")
    with pytest.raises(ConnectionError):
        await storage.uploads.write(ada, begun.upload.id, broken(data, 2 * MIB))
    path = tmp_path / "state" / "objects" / "uploads" / begun.upload.id
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1000)
    storage = reopen()

    def fail(*_: object) -> bytes:
        raise ObjectCorrupt("the key of the tail is gone")

    monkeypatch.setattr(Staging, "tail", fail)
    with pytest.raises(ObjectCorrupt):
        await storage.uploads.write(ada, begun.upload.id, pieces(data[:MIB], MIB))
    assert open_files(begun.upload.id) == []
    monkeypatch.undo()
    done = await storage.uploads.write(ada, begun.upload.id, pieces(data, MIB))
    assert done.upload.complete
    assert await read(storage, ada, sha256(data)) == data


@pytest.mark.parametrize("damage", ["header", "key", "end", "length"])
async def test_a_damaged_object_does_not_stop_the_start(
    storage: Storage,
    reopen: Open,
    ada: Caller,
    tmp_path: Path,
    damage: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its upload stays incomplete and can be sent again; the others are recovered."""
    storage.uploads._record = lambda upload, key_id: (_ for _ in ()).throw(SystemError)
    begun = []
    for data in (b"damaged", b"intact"):
        begun.append(await storage.uploads.create(ada, len(data), sha256(data), ""))
        with pytest.raises(SystemError):
            await storage.uploads.write(ada, begun[-1].upload.id, pieces(data))
    id = begun[0].upload.id
    path = tmp_path / "state" / "objects" / "stored" / id[:2] / id
    good = path.read_bytes()
    path.write_bytes(
        {
            "header": bytes(8) + good[8:],
            "key": good[:20] + bytes(16) + good[36:],
            "end": good[:-1] + bytes([good[-1] ^ 1]),
            "length": good[:-1],
        }[damage]
    )
    storage = reopen()
    with caplog.at_level(logging.WARNING, "lepton_storage.uploads"):
        storage.uploads.recover()
    assert [record.upload for record in caplog.records] == [id]
    assert await read(storage, ada, sha256(b"intact")) == b"intact"
    assert not (await storage.uploads.get(ada, id)).upload.complete
    assert (await storage.uploads.write(ada, id, pieces(b"damaged"))).upload.complete
    assert await read(storage, ada, sha256(b"damaged")) == b"damaged"
