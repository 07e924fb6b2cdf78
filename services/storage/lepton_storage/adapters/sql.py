"""Sessions of storage's database, in the calling thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy.orm import Session

from lepton_mesh.database import Database

T = TypeVar("T")


class Sql:
    """Runs functions in sessions."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, function: Callable[[Session], T]) -> T:
        """Runs ``function`` in a session whose changes are thrown away."""
        return self._database.read_now(function)

    def write(self, function: Callable[[Session], T]) -> T:
        """Runs ``function`` in a transaction. Raises DiskFull."""
        return self._database.write_now(function)
