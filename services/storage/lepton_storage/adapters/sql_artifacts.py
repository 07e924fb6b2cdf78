"""Artifacts in the database."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session, joinedload

from lepton_storage.adapters.sql import Sql
from lepton_storage.adapters.sql_uploads import to_blob
from lepton_storage.errors import BlobNotFound
from lepton_storage.models import ArtifactRow, BlobRow
from lepton_storage.records import Artifact


class SqlArtifactRecords:
    """The ArtifactRecords port."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql

    def create(self, artifact: Artifact) -> Artifact:
        def run(session: Session) -> Artifact:
            if session.get(BlobRow, artifact.blob.id, with_for_update=True) is None:
                raise BlobNotFound(
                    "the bytes of the artifact were just deleted; upload the file again",
                    sha256=artifact.blob.sha256,
                )
            row = ArtifactRow(
                id=artifact.id,
                workspace=artifact.workspace,
                media_type=artifact.media_type,
                filename=artifact.filename,
                source=artifact.source,
                labels=dict(artifact.labels),
                create_time=artifact.create_time,
                blob_id=artifact.blob.id,
            )
            session.add(row)
            session.flush()
            return _artifact(row)

        return self._sql.write(run)

    def get(self, workspace: str, id: str) -> Artifact | None:
        query = _WITH_BLOB.where(ArtifactRow.workspace == workspace, ArtifactRow.id == id)

        def run(session: Session) -> Artifact | None:
            row = session.scalar(query)
            return None if row is None else _artifact(row)

        return self._sql.read(run)

    def list(self, workspace: str, before: int, limit: int) -> Sequence[Artifact]:
        query = (
            _WITH_BLOB.where(ArtifactRow.workspace == workspace)
            .order_by(ArtifactRow.sequence.desc())
            .limit(limit)
        )
        if before:
            query = query.where(ArtifactRow.sequence < before)
        return self._sql.read(lambda session: [_artifact(row) for row in session.scalars(query)])

    def delete(self, workspace: str, id: str) -> bool:
        statement = (
            delete(ArtifactRow)
            .where(ArtifactRow.workspace == workspace, ArtifactRow.id == id)
            .returning(ArtifactRow.sequence)
        )
        return self._sql.write(lambda session: session.scalar(statement)) is not None


_WITH_BLOB = select(ArtifactRow).options(joinedload(ArtifactRow.blob))


def _artifact(row: ArtifactRow) -> Artifact:
    return Artifact(
        id=row.id,
        workspace=row.workspace,
        blob=to_blob(row.blob),
        media_type=row.media_type,
        filename=row.filename,
        source=row.source,
        labels=row.labels,
        create_time=row.create_time,
        sequence=row.sequence,
    )
