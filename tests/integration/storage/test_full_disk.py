"""A disk that is really full: a file system in memory with a few megabytes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton_mesh import disk
from lepton_mesh.caller import Caller, Role
from lepton_mesh.disk import DiskFull, keep_ballast
from lepton_storage.bootstrap import open_storage
from lepton_storage.config import StorageSettings
from tests.unit.storage.traffic import pieces, read, sha256

pytestmark = pytest.mark.integration

MIB = 1 << 20
ADA = Caller("user", "users/ada", "acme", Role.DEVELOPER)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """8 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


async def test_a_full_disk_loses_nothing_and_takes_nothing(small_disk: Path) -> None:
    """Refused up front, told when it fills up midway, and right again once there is room."""
    environment = {
        "LEPTON_STATE_DIR": str(small_disk / "state"),
        "LEPTON_DISK_RESERVE_BYTES": "0",
    }
    storage = open_storage(StorageSettings.load("storage", environment))
    data = os.urandom(6 * MIB)
    with pytest.raises(DiskFull, match=str(small_disk)):
        await storage.uploads.create(ADA, 9 * MIB, "0" * 64, "")
    begun = await storage.uploads.create(ADA, len(data), sha256(data), "")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(3 * MIB))
    with pytest.raises(DiskFull, match="goes on where it stopped") as raised:
        await storage.uploads.write(ADA, begun.upload.id, pieces(data))
    assert raised.value.metadata["path"].startswith(str(small_disk))
    ballast.unlink()
    kept = (await storage.uploads.get(ADA, begun.upload.id)).committed_bytes
    assert 0 < kept < len(data)
    assert list((small_disk / "state" / "objects" / "stored").iterdir()) == []
    await storage.uploads.delete(ADA, begun.upload.id)
    begun = await storage.uploads.create(ADA, 3 * MIB, sha256(data[: 3 * MIB]), "")
    await storage.uploads.write(ADA, begun.upload.id, pieces(data[: 3 * MIB]))
    assert await read(storage, ADA, sha256(data[: 3 * MIB])) == data[: 3 * MIB]
    storage.close()


async def test_a_database_that_cannot_grow_is_a_full_disk(small_disk: Path) -> None:
    """The database's own "disk is full" is told like any other."""
    environment = {
        "LEPTON_STATE_DIR": str(small_disk / "state"),
        "LEPTON_DISK_RESERVE_BYTES": "0",
    }
    storage = open_storage(StorageSettings.load("storage", environment))
    with (small_disk / "ballast").open("wb", 0) as ballast, pytest.raises(OSError, match="space"):
        while True:
            ballast.write(bytes(4096))
    labels = {str(n): "v" * 256 for n in range(64)}
    with pytest.raises(DiskFull):
        for number in range(100):
            await storage.datasets.create(ADA, f"d{number}", "", labels)
    (small_disk / "ballast").unlink()
    await storage.datasets.create(ADA, "again", "", labels)
    storage.close()


async def test_without_its_ballast_there_is_room_to_delete(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then what is there can be looked at."""
    monkeypatch.setattr(disk, "BALLAST_BYTES", MIB // 4)
    state = small_disk / "state"
    environment = {"LEPTON_STATE_DIR": str(state), "LEPTON_DISK_RESERVE_BYTES": "0"}
    storage = open_storage(StorageSettings.load("storage", environment))
    keep_ballast(state)
    labels = {str(n): "v" * 256 for n in range(64)}
    for name in ("old", "older"):
        await storage.datasets.create(ADA, name, "", labels)
    with (small_disk / "data").open("wb", 0) as data, pytest.raises(OSError, match="space"):
        while True:
            data.write(bytes(4096))
    with pytest.raises(DiskFull):
        for number in range(100):
            await storage.datasets.create(ADA, f"d{number}", "", labels)
    keep_ballast(state)
    assert (await storage.datasets.get(ADA, "old")).labels == labels
    with pytest.raises(DiskFull):
        await storage.datasets.delete(ADA, "old")
    (state / "ballast").unlink()
    keep_ballast(state)
    for name in ("old", "older"):
        await storage.datasets.delete(ADA, name)
    storage.close()
