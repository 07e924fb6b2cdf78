"""The storage domain on a temporary disk and database, and callers to use it as."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lepton_mesh.caller import Caller, Role
from lepton_storage.bootstrap import Storage, open_storage
from lepton_storage.config import StorageSettings

Open = Callable[..., Storage]


@pytest.fixture
def reopen(tmp_path: Path) -> Iterator[Open]:
    """Opens storage in the same directory, as often as a test likes."""
    opened: list[Storage] = []

    def open_again(**values: object) -> Storage:
        environment = {
            "LEPTON_STATE_DIR": str(tmp_path / "state"),
            "LEPTON_DISK_RESERVE_BYTES": "0",
        }
        settings = StorageSettings.load("storage", environment).model_copy(update=values)
        opened.append(open_storage(settings))
        return opened[-1]

    yield open_again
    for storage in opened:
        storage.close()


@pytest.fixture
def storage(reopen: Open) -> Storage:
    return reopen()


@pytest.fixture
def ada() -> Caller:
    return Caller("user", "users/ada", "acme", Role.DEVELOPER)


@pytest.fixture
def eve() -> Caller:
    """A developer of another workspace."""
    return Caller("user", "users/eve", "other", Role.DEVELOPER)


@pytest.fixture
def job() -> Caller:
    return Caller(
        "job",
        "jobs/j1",
        "acme",
        reads=frozenset({"datasets/digits/versions/1"}),
        writes=frozenset({"models/m", "jobs/j1"}),
    )
