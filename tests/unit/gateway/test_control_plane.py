"""What the mesh knows reaches the files that Envoy watches, whatever the disk does meanwhile."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lepton_gateway import control_plane
from lepton_gateway.control_plane import ControlPlane
from lepton_gateway.envoy import Json
from lepton_gateway.envoy.bootstrap import ROUTES_FILE, TOKEN_FILE
from lepton_gateway.envoy.routes import RouteOptions
from lepton_gateway.files import ConfigurationFiles
from lepton_mesh.discovery import Instance

OPTIONS = RouteOptions(
    unary_timeout_seconds=60, token_requests_per_second=50, token_requests_per_address=10
)
JWKS = {"keys": [{"kid": "theirs"}]}


class Directory:
    """One instance of each service that is named."""

    def __init__(self) -> None:
        self.present: set[str] = set()
        self._callbacks: list[Callable[[str], None]] = []

    def instances(self, service: str) -> list[Instance]:
        if service not in self.present:
            return []
        return [
            Instance(service, f"{service}-1", "127.0.0.1:7000", ports={"oip": "127.0.0.1:7001"})
        ]

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def add(self, service: str) -> None:
        self.present.add(service)
        for callback in self._callbacks:
            callback(service)


class Disk(ConfigurationFiles):
    """Files on a disk that is full at times."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.full = False
        self.refused = asyncio.Event()

    def write(self, name: str, content: Json) -> bool:
        if self.full:
            self.refused.set()
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(name, content)

    def text(self, name: str) -> str:
        return (self.directory / name).read_text()


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    monkeypatch.setattr(control_plane, "_RETRY_SECONDS", 0.01)
    return Disk(tmp_path)


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_instances_that_came_while_the_disk_was_full_are_served_later(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing else needs to happen: no further instance, no restart."""
    directory = Directory()
    control = ControlPlane(disk, directory, OPTIONS)
    control.start()
    disk.full = True
    with caplog.at_level(logging.WARNING):
        directory.add("training")
        directory.add("inference")
        await asyncio.wait_for(disk.refused.wait(), 5)
        disk.refused.clear()
        await asyncio.wait_for(disk.refused.wait(), 5)
    assert {record.getMessage() for record in caplog.records} == {"configuration not written"}
    disk.full = False
    await until(lambda: "7001" in disk.text("inference-data.json"))
    assert "7000" in disk.text("training.json")
    control.close()


async def test_a_certificate_and_keys_are_written_when_the_disk_has_room(disk: Disk) -> None:
    """An old certificate that stayed in place would end within the hour."""
    control = ControlPlane(disk, Directory(), OPTIONS)
    control.set_certificate("first chain", "first key", "first roots")
    control.start()
    disk.full = True
    control.set_certificate("second chain", "second key", "second roots")
    control.set_signing_keys(JWKS)
    assert "first chain" in disk.text("certificate.json")
    disk.full = False
    await until(lambda: "theirs" in disk.text(TOKEN_FILE))
    assert "second key" in disk.text("certificate.json")
    assert "second roots" in disk.text("trust.json")
    control.close()


async def test_routes_open_with_the_first_keys(disk: Disk) -> None:
    """Before them no token can be verified, so every call that needs one is answered 503."""
    control = ControlPlane(disk, Directory(), OPTIONS)
    control.start()
    assert "cannot be verified" in disk.text(ROUTES_FILE)
    control.set_signing_keys(JWKS)
    assert "cannot be verified" not in disk.text(ROUTES_FILE)
    json.loads(disk.text(TOKEN_FILE))
    control.close()


async def test_a_full_disk_at_the_start_is_an_error(disk: Disk) -> None:
    """Envoy would be started with files that are not there."""
    disk.full = True
    control = ControlPlane(disk, Directory(), OPTIONS)
    control.set_certificate("chain", "key", "roots")
    with pytest.raises(OSError, match="No space"):
        control.start()
    control.close()


def test_files_are_replaced_whole_and_are_ours_alone(tmp_path: Path) -> None:
    """One holds a private key; what did not change is left alone, so that Envoy is."""
    files = ConfigurationFiles(tmp_path)
    assert files.write("certificate.json", {"key": "first"})
    before = (tmp_path / "certificate.json").stat()
    assert stat.S_IMODE(before.st_mode) == 0o600
    assert not files.write("certificate.json", {"key": "first"})
    assert (tmp_path / "certificate.json").stat().st_ino == before.st_ino
    assert files.write("certificate.json", {"key": "second"})
    assert json.loads((tmp_path / "certificate.json").read_text()) == {"key": "second"}
    assert [path.name for path in tmp_path.iterdir()] == ["certificate.json"]
