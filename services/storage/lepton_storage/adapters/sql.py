"""Sessions of storage's database, with a full disk told apart from other failures."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from lepton_mesh.database import Database
from lepton_storage.errors import disk_full

T = TypeVar("T")


class Sql:
    """Runs functions in sessions, in the calling thread."""

    def __init__(self, database: Database, path: Path) -> None:
        self._database = database
        self._path = path
        """Where the database lies; named when its disk is full."""

    def read(self, function: Callable[[Session], T]) -> T:
        """Runs ``function`` in a session whose changes are thrown away."""
        return self._database.read_now(function)

    def write(self, function: Callable[[Session], T]) -> T:
        """Runs ``function`` in a transaction. Raises DiskFull."""
        try:
            return self._database.write_now(function)
        except OperationalError as error:
            if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                raise disk_full(self._path) from error
            raise
