"""Making a version holds up nobody else: not the event loop, not the threads that move bytes."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lepton.api.storage.v1 import storage_pb2 as pb
from lepton_mesh.caller import Caller, set_caller
from lepton_storage import bootstrap, convert, datasets
from lepton_storage.bootstrap import Storage
from lepton_storage.checks import Checks
from lepton_storage.datasets import MAX_FILES, NewFile, NewVersion
from lepton_storage.errors import DatasetInvalid, StorageRequestInvalid
from lepton_storage.formats import CHECKS, Open
from lepton_storage.records import DatasetFormat
from tests.unit.storage.conftest import Open as OpenStorage
from tests.unit.storage.traffic import on_disk, send, sha256

RAW = DatasetFormat.RAW
_FAR = datetime(2100, 1, 1, tzinfo=UTC)


class Slow:
    """A check that reads on until it is let go, and notes what becomes of it."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.ended = threading.Semaphore(0)
        self.calls = 0

    def __call__(self, files: Mapping[str, Open]) -> dict[str, str]:
        self.calls += 1
        self.begun.release()
        try:
            for begin in files.values():
                for _ in begin():
                    self.go_on.wait(0.001)
        finally:
            self.ended.release()
        return {"files": str(len(files))}

    def read(self) -> Iterator[bytes]:
        while not self.go_on.is_set():
            yield b"x"


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    """In place of the check of RAW files."""
    check = Slow()
    monkeypatch.setitem(CHECKS, RAW, check)
    yield check
    check.go_on.set()


@pytest.fixture
def checks() -> Iterator[Checks]:
    made = Checks()
    yield made
    made.close()


async def happens(semaphore: threading.Semaphore) -> bool:
    return await asyncio.to_thread(semaphore.acquire, timeout=30)


async def test_callers_who_ask_for_the_same_files_share_one_check(
    checks: Checks, slow: Slow
) -> None:
    """It goes on while one of them is left, and is forgotten afterwards."""
    files = {"a": slow.read}
    asked = [asyncio.create_task(checks.statistics("key", RAW, files)) for _ in range(3)]
    assert await happens(slow.begun)
    asked[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked[0]
    slow.go_on.set()
    assert await asyncio.gather(*asked[1:]) == [{"files": "1"}] * 2
    assert slow.calls == 1
    assert await checks.statistics("key", RAW, files) == {"files": "1"}
    assert slow.calls == 2


async def test_a_check_that_nobody_waits_for_ends(checks: Checks, slow: Slow) -> None:
    """One that runs reads no further piece, and one that waits for a thread never begins."""
    asked = [asyncio.create_task(checks.statistics(n, RAW, {"a": slow.read})) for n in range(3)]
    for _ in range(2):
        assert await happens(slow.begun)
    asked[2].cancel()
    asked[0].cancel()
    assert await happens(slow.ended)
    asked[1].cancel()
    assert await happens(slow.ended)
    await asyncio.gather(*asked, return_exceptions=True)
    checks.close()
    assert slow.calls == 2


async def test_a_failed_check_fails_for_all_and_is_made_again(checks: Checks) -> None:
    """What was wrong is not remembered."""
    files = {"t.csv": lambda: iter([b"a,b\n1\n"])}
    asked = [checks.statistics("key", DatasetFormat.CSV, files) for _ in range(2)]
    for failure in await asyncio.gather(*asked, return_exceptions=True):
        assert isinstance(failure, DatasetInvalid)
    right = {"t.csv": lambda: iter([b"a,b\n1,2\n"])}
    assert (await checks.statistics("key", DatasetFormat.CSV, right))["rows"] == "1"


async def test_checks_leave_the_threads_for_bytes_alone(
    reopen: OpenStorage, ada: Caller, slow: Slow
) -> None:
    """While as many versions are checked as may be, everything else is answered."""
    storage = reopen(io_threads=1)
    storage.datasets._reader = lambda blob: slow.read
    await storage.datasets.create(ada, "digits", "", {})
    asked = []
    for data in (b"1", b"2", b"3"):
        await send(storage, ada, data)
        new = NewVersion(RAW, [NewFile("a", sha256(data), "")], "", {})
        asked.append(asyncio.create_task(storage.datasets.create_version(ada, "digits", new)))
    for _ in range(2):
        assert await happens(slow.begun)
    assert (await storage.datasets.get(ada, "digits")).latest == 0
    slow.go_on.set()
    assert {made.number for made in await asyncio.gather(*asked)} == {1, 2, 3}


async def test_a_version_is_taken_apart_off_the_event_loop(
    storage: Storage, ada: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Converting a message and checking its paths take long for many files."""
    ran_in = []
    for module, name in (
        (convert, "from_version"),
        (convert, "to_version"),
        (datasets, "check_paths"),
    ):
        real = getattr(module, name)

        def note(*arguments: object, real=real, name=name) -> object:
            ran_in.append((name, threading.current_thread() is threading.main_thread()))
            return real(*arguments)

        monkeypatch.setattr(module, name, note)
    set_caller(ada)
    await storage.datasets.create(ada, "digits", "", {})
    await send(storage, ada, b"a")
    file = pb.DataFile(path="a", sha256=sha256(b"a"))
    await storage.servicer.CreateDatasetVersion(
        pb.CreateDatasetVersionRequest(
            parent="datasets/digits", dataset_version=pb.DatasetVersion(files=[file])
        ),
        None,
    )
    name = pb.GetDatasetVersionRequest(name="datasets/digits/versions/1")
    await storage.servicer.GetDatasetVersion(name, None)
    assert ran_in == [
        ("from_version", False),
        ("check_paths", False),
        ("to_version", False),
        ("to_version", False),
    ]


def test_too_many_are_refused_before_they_are_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message of 64 MiB has room for a million files or labels; counting them costs nothing."""
    monkeypatch.setattr(convert, "NewFile", None)  # what takes a file apart
    message = pb.DatasetVersion(files=[pb.DataFile()] * (MAX_FILES + 1))
    with pytest.raises(StorageRequestInvalid, match="100001"):
        convert.from_version(message)
    labels = {str(n): "" for n in range(65)}
    for call in (
        lambda: convert.from_artifact(pb.Artifact(labels=labels)),
        lambda: convert.from_labels(pb.Dataset(labels=labels).labels),
    ):
        with pytest.raises(StorageRequestInvalid, match="more than 64 labels"):
            call()


async def test_deleting_wakes_the_clean_up(
    storage: Storage, ada: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes go soon after their last use, and not within the call, which may be given up."""
    await send(storage, ada, b"unused")
    await storage.datasets.create(ada, "digits", "", {})
    rounds = asyncio.Queue[int]()
    loop = asyncio.get_running_loop()
    real = Storage.maintain

    def maintain(self: Storage) -> None:
        real(self)
        loop.call_soon_threadsafe(rounds.put_nowait, len(on_disk(tmp_path)))

    monkeypatch.setattr(Storage, "maintain", maintain)
    upkeep = asyncio.create_task(bootstrap._maintain(storage, 3600))
    assert await rounds.get() == 1
    (upload,) = storage.uploads._records.delete_expired(_FAR)
    assert upload.complete
    await storage.datasets.delete(ada, "digits")
    assert await rounds.get() == 0
    upkeep.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await upkeep
