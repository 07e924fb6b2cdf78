"""What the mesh's database makes of a PostgreSQL server that ends connections or is gone."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from lepton_mesh.database import Database, DatabaseUnavailable
from tests.postgresql_server import PostgresqlServer


@pytest.fixture
def url(postgresql: PostgresqlServer) -> str:
    return postgresql.new_database()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    database = Database.open(url, "lepton_storage.migrations")
    yield database
    database.close()


def test_a_connection_that_the_server_ends(database: Database, url: str) -> None:
    """Reading begins again on another one; writing says that it may be tried again."""
    begun: list[int] = []

    def run(session: Session) -> int:
        process = session.scalar(text("SELECT pg_backend_pid()"))
        begun.append(process)
        if len(begun) in (1, 3):
            with psycopg.connect(url, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 10000)", (process,))
        return session.scalar(text("SELECT 2"))

    assert database.read_now(run) == 2
    assert len(set(begun)) == 2
    with pytest.raises(DatabaseUnavailable):
        database.write_now(run)
    assert len(begun) == 3
    assert database.write_now(run) == 2


def test_a_server_that_cannot_be_reached(database: Database, url: str) -> None:
    """The error says what to do and names neither address nor user."""
    database.engine.dispose()
    name = url.partition("@/")[2].partition("?")[0]
    with psycopg.connect(url, dbname="postgres", autocommit=True) as other:
        other.execute(f"DROP DATABASE {name}".encode())
    with pytest.raises(DatabaseUnavailable) as raised:
        database.read_now(lambda session: session.scalar(text("SELECT 1")))
    assert name not in raised.value.message
