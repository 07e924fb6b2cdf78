"""The database of this service's records."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lepton_mesh.database import Database


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty one."""
    database = Database.open(database_url, "lepton_auth.migrations")
    yield database
    database.close()
