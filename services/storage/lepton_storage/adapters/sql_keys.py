"""Workspace keys in the database."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lepton_mesh.database import Database
from lepton_storage.adapters.sql_uploads import delete_uploads
from lepton_storage.models import UploadRow, WorkspaceKeyRow
from lepton_storage.records import WorkspaceKey


class SqlKeyRecords:
    """The KeyRecords port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def current(self, workspace: str) -> WorkspaceKey | None:
        return self._database.read_now(lambda session: _current(session, workspace))

    def get(self, key_id: str) -> WorkspaceKey | None:
        def run(session: Session) -> WorkspaceKey | None:
            row = session.get(WorkspaceKeyRow, key_id)
            return None if row is None else _key(row)

        return self._database.read_now(run)

    def add(self, key: WorkspaceKey) -> WorkspaceKey:
        def run(session: Session) -> WorkspaceKey:
            existing = _current(session, key.workspace)
            if existing is not None:
                return existing
            session.add(
                WorkspaceKeyRow(
                    id=key.id,
                    workspace=key.workspace,
                    current=key.workspace,
                    kek_id=key.kek_id,
                    wrapped=key.wrapped,
                )
            )
            return key

        try:
            return self._database.write_now(run)
        except IntegrityError:  # another process was first
            return self._database.write_now(run)

    def alive(self) -> Sequence[WorkspaceKey]:
        query = select(WorkspaceKeyRow).where(WorkspaceKeyRow.wrapped.is_not(None))
        return self._database.read_now(
            lambda session: [_key(row) for row in session.scalars(query)]
        )

    def rewrap(self, key: WorkspaceKey) -> None:
        # Not if it was destroyed meanwhile: destroyed keys stay destroyed.
        statement = (
            update(WorkspaceKeyRow)
            .where(WorkspaceKeyRow.id == key.id, WorkspaceKeyRow.wrapped.is_not(None))
            .values(kek_id=key.kek_id, wrapped=key.wrapped)
        )
        self._database.write_now(lambda session: session.execute(statement))

    def destroy(self, workspace: str) -> int:
        def run(session: Session) -> int:
            rows = session.scalars(
                select(WorkspaceKeyRow).where(
                    WorkspaceKeyRow.workspace == workspace, WorkspaceKeyRow.wrapped.is_not(None)
                )
            ).all()
            for row in rows:
                row.wrapped = None
                row.current = None
            # So that nobody finds "complete" what was erased.
            delete_uploads(session, UploadRow.workspace == workspace)
            return len(rows)

        count = self._database.write_now(run)
        self._database.empty_log()
        return count


def _current(session: Session, workspace: str) -> WorkspaceKey | None:
    row = session.scalar(select(WorkspaceKeyRow).where(WorkspaceKeyRow.current == workspace))
    return None if row is None else _key(row)


def _key(row: WorkspaceKeyRow) -> WorkspaceKey:
    return WorkspaceKey(row.id, row.workspace, row.kek_id, row.wrapped)
