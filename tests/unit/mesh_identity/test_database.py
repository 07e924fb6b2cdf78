"""The database pattern that every service follows."""

import asyncio
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import ForeignKey, insert, select, text, update
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from lepton_mesh import database as database_module
from lepton_mesh.config import InvalidConfiguration
from lepton_mesh.database import (
    Database,
    DatabaseUnavailable,
    UtcDateTime,
    create_engine,
    differences,
    upgrade,
)
from lepton_mesh.disk import DiskFull


class Base(DeclarativeBase):
    pass


class Parent(Base):
    __tablename__ = "parents"
    id: Mapped[int] = mapped_column(primary_key=True)
    time: Mapped[datetime] = mapped_column(UtcDateTime)
    count: Mapped[int] = mapped_column(default=0)


class Child(Base):
    __tablename__ = "children"
    id: Mapped[int] = mapped_column(primary_key=True)
    parent: Mapped[int] = mapped_column(ForeignKey("parents.id", ondelete="CASCADE"))


FIRST = """
import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade():
    op.create_table(
        "parents",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("time", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "children",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column(
            "parent", sa.Integer, sa.ForeignKey("parents.id", ondelete="CASCADE"), nullable=False
        ),
    )
"""
SECOND = """
import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade():
    with op.batch_alter_table("parents", recreate="always") as parents:
        parents.add_column(sa.Column("count", sa.Integer, nullable=False, server_default="0"))
"""
BROKEN = (
    SECOND.replace("0001", "0002").replace('"0002"', '"0003"', 1) + "    raise KeyError('bug')\n"
)


@pytest.fixture
def migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package `fixture_service.migrations` on sys.path, as a wheel would install it."""
    versions = tmp_path / "a path" / "fixture_service" / "migrations" / "versions"
    versions.mkdir(parents=True)
    (versions.parents[1] / "__init__.py").touch()
    (versions.parent / "__init__.py").touch()
    (versions / "0001_first.py").write_text(FIRST)
    (versions / "0002_second.py").write_text(SECOND)
    monkeypatch.syspath_prepend(str(tmp_path / "a path"))
    for name in [name for name in sys.modules if name.startswith("fixture_service")]:
        monkeypatch.delitem(sys.modules, name)
    return "fixture_service.migrations"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'service.db'}"


def add_parent(session: Session) -> None:
    session.add(Parent(id=1, time=datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=2)))))


def test_the_revisions_build_what_the_models_say(url: str, migrations: str) -> None:
    database = Database.open(url, migrations)
    assert differences(database.engine, Base.metadata) == []
    database.write_now(add_parent)
    parent = database.read_now(lambda session: session.scalars(select(Parent)).one())
    assert parent.time == datetime(2026, 1, 2, 1, tzinfo=UTC)
    assert parent.time.tzinfo is UTC
    assert database.read_now(lambda s: s.scalar(text("PRAGMA journal_mode"))) == "wal"
    database.close()


def test_upgrading_a_table_keeps_the_rows_that_refer_to_it(
    url: str, migrations: str, tmp_path: Path
) -> None:
    """Recreating a parent table in batch mode would cascade into its children."""
    second = tmp_path / "a path/fixture_service/migrations/versions/0002_second.py"
    second.rename(tmp_path / "later")
    engine = create_engine(url)
    upgrade(engine, migrations)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO parents VALUES (1, '2026-01-01 00:00:00')"))
        connection.execute(text("INSERT INTO children VALUES (1, 1)"))
    (tmp_path / "later").rename(second)
    upgrade(engine, migrations)
    with engine.begin() as connection:
        assert connection.scalar(text("SELECT count(*) FROM children")) == 1
        with pytest.raises(IntegrityError):
            connection.execute(insert(Child).values(id=2, parent=9))
    engine.dispose()


def test_a_failing_revision_leaves_nothing_behind(
    url: str, migrations: str, tmp_path: Path
) -> None:
    (tmp_path / "a path/fixture_service/migrations/versions/0003_broken.py").write_text(BROKEN)
    with pytest.raises(KeyError):
        Database.open(url, migrations)
    engine = create_engine(url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM sqlite_master")) == 0
    engine.dispose()


OPEN_AND_CLOSE = """
import sys
from lepton_mesh.database import Database
url, migrations, path = sys.argv[1:]
sys.path.insert(0, path)
Database.open(url, migrations).close()
"""


def test_processes_that_start_at_once_migrate_once(
    url: str, migrations: str, tmp_path: Path
) -> None:
    # Not forked: what other threads of this process hold at that moment would stay held.
    command = [sys.executable, "-c", OPEN_AND_CLOSE, url, migrations, str(tmp_path / "a path")]
    processes = [subprocess.Popen(command) for _ in range(6)]
    assert [process.wait(timeout=60) for process in processes] == [0] * 6


async def test_concurrent_read_modify_write_loses_nothing(url: str, migrations: str) -> None:
    database = await asyncio.to_thread(Database.open, url, migrations)
    await database.write(add_parent)

    def increment(session: Session) -> None:
        count = session.scalars(select(Parent.count)).one()
        session.execute(update(Parent).values(count=count + 1))

    await asyncio.gather(*(database.write(increment) for _ in range(50)))
    assert await database.read(lambda s: s.scalars(select(Parent.count)).one()) == 50
    await asyncio.to_thread(database.close)


def test_a_failed_write_changes_nothing_and_a_reader_does_not_wait(
    url: str, migrations: str
) -> None:
    database = Database.open(url, migrations)

    def fail(session: Session) -> None:
        add_parent(session)
        session.flush()
        # The writer's transaction is open here.
        assert database.read_now(lambda s: s.scalars(select(Parent)).all()) == []
        raise RuntimeError

    with pytest.raises(RuntimeError):
        database.write_now(fail)
    assert database.read_now(lambda s: s.scalars(select(Parent)).all()) == []
    database.close()


def test_a_file_that_cannot_grow_is_a_full_disk(tmp_path: Path, migrations: str) -> None:
    """SQLite's own "database or disk is full" is told as any full disk, naming the file."""
    database = Database.open(f"sqlite:///{tmp_path}/full.db", migrations)

    def fill(session: Session) -> None:
        session.execute(text("PRAGMA max_page_count = 1"))
        session.execute(text("CREATE TABLE more (content BLOB)"))
        session.execute(text("INSERT INTO more VALUES (zeroblob(1000000))"))

    with pytest.raises(DiskFull, match=r"full\.db; free some"):
        database.write_now(fill)
    database.close()


def test_a_locked_database_is_unavailable_and_a_missing_table_a_bug(
    tmp_path: Path, url: str, migrations: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite has one error class for both; whoever asks may come again for the first alone."""
    monkeypatch.setattr(database_module, "_BUSY_SECONDS", 0.05)
    database = Database.open(url, migrations)
    other = sqlite3.connect(tmp_path / "service.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnavailable) as raised:
        database.write_now(add_parent)
    assert raised.value.wire.retryable
    other.execute("ROLLBACK")
    other.close()
    database.write_now(add_parent)
    with pytest.raises(OperationalError, match="no such table"):
        database.read_now(lambda session: session.execute(text("SELECT 1 FROM absent")))
    database.close()


def lost(calls: list[int]) -> OperationalError:
    """A connection that broke, as SQLAlchemy tells it."""
    calls.append(1)
    return OperationalError("SELECT 1", {}, ConnectionError("gone"), connection_invalidated=True)


def test_a_lost_connection_is_asked_again_by_those_who_only_read(url: str, migrations: str) -> None:
    """A write may have been committed: it is reported, and not done twice."""
    database = Database.open(url, migrations)
    calls: list[int] = []

    def once(session: Session) -> str:
        if not calls:
            raise lost(calls)
        return "answer"

    def always(session: Session) -> None:
        raise lost(calls)

    assert database.read_now(once) == "answer"
    calls.clear()
    with pytest.raises(DatabaseUnavailable):
        database.write_now(always)
    assert len(calls) == 1
    with pytest.raises(DatabaseUnavailable):
        database.read_now(always)
    database.close()


def test_a_pool_without_a_free_connection_is_unavailable(url: str, migrations: str) -> None:
    database = Database.open(url, migrations)

    def starve(session: Session) -> None:
        raise PoolTimeout("QueuePool limit reached")

    for run in (database.read_now, database.write_now):
        with pytest.raises(DatabaseUnavailable):
            run(starve)
    database.close()


@pytest.mark.parametrize("url", ["sqlite://", "postgresql://u:p@h/d"])
def test_errors_do_not_hold_what_was_to_be_stored(url: str) -> None:
    """Parameters are secrets at times, and errors go to the log."""
    engine = create_engine(url)
    assert engine.hide_parameters
    engine.dispose()


def test_what_is_deleted_is_overwritten(tmp_path: Path, url: str, migrations: str) -> None:
    """Neither the file nor its log still has it once the log was emptied."""
    database = Database.open(url, migrations)
    secret = "5" * 40 + "secret"
    database.write_now(lambda session: session.execute(text("CREATE TABLE secrets (content TEXT)")))
    database.write_now(
        lambda session: session.execute(text("INSERT INTO secrets VALUES (:it)"), {"it": secret})
    )
    files = [tmp_path / "service.db", tmp_path / "service.db-wal"]
    assert any(secret.encode() in file.read_bytes() for file in files)
    database.write_now(lambda session: session.execute(text("DELETE FROM secrets")))
    database.empty_log()
    assert not any(secret.encode() in file.read_bytes() for file in files)
    database.close()


@pytest.mark.parametrize("url", ["not a url secret", "mysql://u:secret@h/d", ""])
def test_a_wrong_url_is_named_without_its_secret(url: str) -> None:
    with pytest.raises(InvalidConfiguration, match="LEPTON_DATABASE_URL") as raised:
        create_engine(url)
    assert "secret" not in str(raised.value)


def test_a_naive_time_is_refused(url: str, migrations: str) -> None:
    database = Database.open(url, migrations)
    with pytest.raises(Exception, match="without a zone"):
        database.write_now(
            lambda s: s.execute(insert(Parent).values(id=1, time=datetime(2026, 1, 1)))
        )
    database.close()
