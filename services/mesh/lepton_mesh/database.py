"""A service's own database: SQLite by default, PostgreSQL by URL.

What a service writes:

    lepton_storage/
      models.py                       class Base(DeclarativeBase), tables; times as UtcDateTime
      migrations/__init__.py          a docstring
      migrations/versions/0001_*.py   Alembic revisions: revision, down_revision, upgrade()
                                      (no env.py, no alembic.ini: the mesh has one for all)

    # bootstrap.py
    database = await asyncio.to_thread(
        Database.open, settings.database_url, "lepton_storage.migrations"
    )

    # adapters/…: sessions are synchronous; `read` and `write` run them off the event loop
    def _claim(session: Session) -> bool:
        done = session.execute(update(Job).where(Job.id == id, Job.owner.is_(None)).values(...))
        return done.rowcount == 1

    claimed = await database.write(_claim)      # one transaction, committed on return
    jobs = await database.read(_list_jobs)      # never blocks behind a writer

The function given to ``read`` or ``write`` may run again from the start if the database
asks for it (see :meth:`Database.write`), so it must have no effect outside its session, and
returns plain values, not rows that would load lazily later.

A test keeps models and revisions together: ``assert differences(engine, Base.metadata) == []``.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Dialect, Engine, MetaData, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session
from sqlalchemy.types import DateTime, TypeDecorator

from lepton_mesh.config import InvalidConfiguration
from lepton_mesh.disk import disk_full, is_disk_full
from lepton_mesh.errors import Unavailable

T = TypeVar("T")

log = logging.getLogger(__name__)

_BUSY_SECONDS = 30.0
"""How long SQLite waits for another writer before it gives up."""
_ATTEMPTS = 5
_MIGRATION_LOCK = 0x6C6570746F6E  # "lepton": PostgreSQL advisory locks are 64-bit numbers.
_SERIALIZATION_FAILURES = frozenset({"40001", "40P01"})  # PostgreSQL appendix A, class 40
_SQLITE_AWAY = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)


class DatabaseUnavailable(Unavailable):
    reason = "DATABASE_UNAVAILABLE"


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC, in and out, on SQLite too (which forgets the zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a datetime without a zone cannot be stored")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Database:
    """An engine with its schema up to date, and the two ways to use it from asyncio."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._reading = engine.execution_options(sqlite_begin="DEFERRED")
        # Not the loop's default executor: a slow disk must not hold up unrelated work.
        self._executor = ThreadPoolExecutor(max_workers=8, thread_name_prefix="database")

    @classmethod
    def open(cls, url: str, migrations: str) -> Database:
        """Connects and runs the revisions in package ``migrations``. Blocks: use a thread."""
        engine = create_engine(url)
        try:
            upgrade(engine, migrations)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine)

    async def read(self, function: Callable[[Session], T]) -> T:
        """Runs ``function`` in a session whose changes are thrown away.

        Runs it again, a few times, when the connection is lost meanwhile. Raises
        DatabaseUnavailable.
        """
        return await self._run(self.read_now, function)

    async def write(self, function: Callable[[Session], T]) -> T:
        """Runs ``function`` in a transaction that commits when it returns, and not if it raises.

        Runs it again, a few times, when PostgreSQL reports a deadlock or serialization failure.
        Raises DiskFull when SQLite's file cannot grow, and DatabaseUnavailable; a connection that
        is lost at the end may leave the transaction committed.
        """
        return await self._run(self.write_now, function)

    def read_now(self, function: Callable[[Session], T]) -> T:
        """:meth:`read` for code that already runs in a thread."""

        def run() -> T:
            with Session(self._reading, expire_on_commit=False) as session:
                return function(session)

        return self._attempt(run, lambda error: error.connection_invalidated)

    def write_now(self, function: Callable[[Session], T]) -> T:
        """:meth:`write` for code that already runs in a thread."""

        def run() -> T:
            with Session(self.engine, expire_on_commit=False) as session, session.begin():
                return function(session)

        return self._attempt(run, _was_not_applied)

    def _attempt(self, run: Callable[[], T], again: Callable[[DBAPIError], bool]) -> T:
        for left in reversed(range(_ATTEMPTS)):
            try:
                return run()
            except PoolTimeout as error:
                raise _unavailable(error) from error
            except DBAPIError as error:
                if error.orig is not None and is_disk_full(error.orig):
                    raise disk_full(self.engine.url.database or "the database") from error
                if left and again(error):
                    continue
                if _is_away(error):
                    raise _unavailable(error.orig or error) from error
                raise
        raise AssertionError("the last attempt returns or raises")

    async def _run(
        self, run: Callable[[Callable[[Session], T]], T], argument: Callable[[Session], T]
    ) -> T:
        loop = asyncio.get_running_loop()
        # The caller and the trace travel along, as with asyncio.to_thread.
        return await loop.run_in_executor(self._executor, copy_context().run, run, argument)

    def empty_log(self) -> None:
        """Moves SQLite's write-ahead log into the file and empties it. Blocks: use a thread.

        The log keeps pages as they were before something in them was deleted or replaced. On
        PostgreSQL it does nothing: the server's log is not ours to cut.
        """
        if self.engine.dialect.name == "sqlite":
            with self.engine.connect() as connection:
                # The pragma is refused inside a transaction.
                _sqlite(connection).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def close(self) -> None:
        """Waits for running sessions, then closes every connection."""
        self._executor.shutdown()
        self.engine.dispose()


def create_engine(url: str) -> Engine:
    """An engine with the settings that every service wants.

    SQLite: write-ahead log, full durability, foreign keys on, deleted content overwritten, waits
    for other writers, and transactions that begin with ``BEGIN IMMEDIATE``: a transaction that
    read first and then writes would otherwise fail at once when another one wrote in between.
    Set the execution option ``sqlite_begin="DEFERRED"`` for sessions that only read.

    Raises:
        InvalidConfiguration: The URL is malformed or names another database.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        # The URL may hold a password, so it is not repeated.
        raise InvalidConfiguration(
            "LEPTON_DATABASE_URL is not a URL; expected sqlite:///<file> or postgresql://…"
        ) from None
    backend = parsed.get_backend_name()
    # Parameters may be secrets and users' own words: they belong in no error that is logged.
    if backend == "sqlite":
        engine = sqlalchemy.create_engine(
            parsed, hide_parameters=True, connect_args={"timeout": _BUSY_SECONDS}
        )
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    if backend == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
        return sqlalchemy.create_engine(parsed, hide_parameters=True, pool_pre_ping=True)
    raise InvalidConfiguration(
        f"LEPTON_DATABASE_URL names {backend}; use sqlite:///<file> or postgresql://…"
    )


def upgrade(engine: Engine, migrations: str) -> None:
    """Brings the schema to the newest revision; all of it or nothing.

    Safe when several processes start at once: one migrates, the others wait and find it done.

    Args:
        migrations: Package with a ``versions`` directory, such as ``lepton_storage.migrations``.
    """
    config = Config()
    config.set_main_option(
        "script_location", str(_directory("lepton_mesh") / "migration_environment")
    )
    config.set_main_option("version_locations", str(_directory(migrations) / "versions"))
    config.set_main_option("path_separator", "newline")  # so that a path may hold blanks
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        if connection.dialect.name == "sqlite":
            # Batch mode drops and renames tables; the pragma has no effect in a transaction.
            _sqlite(connection).execute("PRAGMA foreign_keys = OFF")
        try:
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(
                        sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(_MIGRATION_LOCK))
                    )
                command.upgrade(config, "head")
        finally:
            if connection.dialect.name == "sqlite":
                _sqlite(connection).execute("PRAGMA foreign_keys = ON")


def differences(engine: Engine, metadata: MetaData) -> list[Any]:
    """What a database built by the revisions has otherwise than ``metadata`` says (for tests)."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, metadata))


def _was_not_applied(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in _SERIALIZATION_FAILURES


def _is_away(error: DBAPIError) -> bool:
    """Whether the database could not do what it was asked, for now; else the statement is wrong."""
    if isinstance(error.orig, sqlite3.Error):
        # One class stands for a locked file and for a missing table; the lowest byte tells.
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _SQLITE_AWAY
    return error.connection_invalidated or isinstance(error, OperationalError)


def _unavailable(cause: BaseException) -> DatabaseUnavailable:
    log.warning("database unavailable", extra={"error": str(cause)})
    return DatabaseUnavailable(
        "the service's database does not answer; try again in a moment, and see the service's log "
        "if that does not help"
    )


def _directory(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"{package} is not a package", name=package)
    return Path(next(iter(spec.submodule_search_locations)))


def _sqlite(connection: Connection) -> sqlite3.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)  # noqa: S101 - tells the type checker
    return driver


def _configure_sqlite(connection: sqlite3.Connection, _: object) -> None:
    # Python's own transaction control leaves DDL outside of transactions; SQLAlchemy's
    # "begin" event below takes over.
    connection.isolation_level = None
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError:
            # Two first openers of one file contend for its journal mode, and SQLite fails
            # one of them without waiting (its busy handler is not asked here).
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    connection.execute("PRAGMA synchronous = FULL")
    # What is deleted or replaced is overwritten: secrets that were destroyed stay in no free page.
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options().get("sqlite_begin", "IMMEDIATE")
    connection.exec_driver_sql(f"BEGIN {mode}")
