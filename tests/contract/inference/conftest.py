"""Each database that the records must behave the same on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lepton_mesh.database import Database
from tests.postgresql_server import PostgresqlServer, why_not


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    if reason := why_not():
        pytest.skip(reason)
    server = PostgresqlServer()
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """An empty database of the inference service."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'inference.db'}"
    else:
        url = request.getfixturevalue("postgresql").new_database()
    database = Database.open(url, "lepton_inference.migrations")
    yield database
    database.close()
