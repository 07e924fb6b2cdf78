"""A registry over SQLite and a storage that a test can look into."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lepton_mesh.caller import Caller, Role
from lepton_mesh.database import Database
from lepton_registry.adapters.sql import SqlStore
from lepton_registry.files import Files
from lepton_registry.registry import Registry
from tests.unit.registry.fake_storage import FakeArtifacts

ADA = Caller("user", "users/ada", "lab", Role.DEVELOPER)


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def artifacts() -> FakeArtifacts:
    return FakeArtifacts()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    database = Database.open(f"sqlite:///{tmp_path / 'r.db'}", "lepton_registry.migrations")
    yield SqlStore(database)
    database.close()


@pytest.fixture
def files(store: SqlStore, artifacts: FakeArtifacts, clock: Clock) -> Files:
    return Files(store, artifacts, clock)


@pytest.fixture
async def registry(store: SqlStore, files: Files, clock: Clock) -> Registry:
    """With an empty model `digits` in workspace `lab`."""
    registry = Registry(store, files, clock)
    await registry.create_model(ADA, "digits", "", {})
    return registry
