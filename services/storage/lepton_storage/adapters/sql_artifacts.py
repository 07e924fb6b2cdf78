"""Artifacts in the database."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session, joinedload

from lepton_mesh.database import Database
from lepton_storage.adapters.sql_uploads import to_blob
from lepton_storage.errors import ArtifactHeld, BlobNotFound, artifact_not_found
from lepton_storage.models import ArtifactHoldRow, ArtifactRow, BlobRow
from lepton_storage.records import Artifact, Hold


class SqlArtifactRecords:
    """The ArtifactRecords port."""

    def __init__(self, database: Database) -> None:
        self._database = database

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

        return self._database.write_now(run)

    def get(self, workspace: str, id: str) -> Artifact | None:
        query = _WITH_BLOB.where(ArtifactRow.workspace == workspace, ArtifactRow.id == id)

        def run(session: Session) -> Artifact | None:
            row = session.scalar(query)
            return None if row is None else _artifact(row)

        return self._database.read_now(run)

    def list(self, workspace: str, before: int, limit: int) -> Sequence[Artifact]:
        query = (
            _WITH_BLOB.where(ArtifactRow.workspace == workspace)
            .order_by(ArtifactRow.sequence.desc())
            .limit(limit)
        )
        if before:
            query = query.where(ArtifactRow.sequence < before)
        return self._database.read_now(
            lambda session: [_artifact(row) for row in session.scalars(query)]
        )

    def delete(self, workspace: str, id: str) -> bool:
        def run(session: Session) -> bool:
            # Locked, so that it is not held between the question and the deletion.
            sequence = session.scalar(
                select(ArtifactRow.sequence)
                .where(ArtifactRow.workspace == workspace, ArtifactRow.id == id)
                .with_for_update()
            )
            if sequence is None:
                return False
            holder = session.scalar(
                select(ArtifactHoldRow.holder)
                .where(ArtifactHoldRow.artifact_sequence == sequence)
                .limit(1)
            )
            if holder is not None:
                raise ArtifactHeld(
                    f"'artifacts/{id}' is held by '{holder}'; delete that, and its files go too",
                    artifact=id,
                    holder=holder,
                )
            session.execute(delete(ArtifactRow).where(ArtifactRow.sequence == sequence))
            return True

        return self._database.write_now(run)

    def hold(self, hold: Hold, allow_missing: bool) -> None:
        query = (
            select(ArtifactRow.id, ArtifactRow.sequence)
            .where(ArtifactRow.workspace == hold.workspace, ArtifactRow.id.in_(hold.artifacts))
            .order_by(ArtifactRow.sequence)
            .with_for_update()
        )

        def run(session: Session) -> None:
            # Locked, so that none is deleted before the hold is stored.
            sequences = dict(session.execute(query).all())
            missing = [id for id in hold.artifacts if id not in sequences]
            if missing and not allow_missing:
                raise artifact_not_found(missing[0])
            held = set(
                session.scalars(
                    select(ArtifactHoldRow.artifact_sequence).where(ArtifactHoldRow.hold == hold.id)
                )
            )
            session.add_all(
                ArtifactHoldRow(hold=hold.id, artifact_sequence=sequence, holder=hold.holder)
                for sequence in sequences.values()
                if sequence not in held
            )

        self._database.write_now(run)

    def release(self, workspace: str, hold_id: str, delete_unheld: bool) -> None:
        query = (
            select(ArtifactRow.sequence)
            .join(ArtifactHoldRow, ArtifactHoldRow.artifact_sequence == ArtifactRow.sequence)
            .where(ArtifactRow.workspace == workspace, ArtifactHoldRow.hold == hold_id)
            .order_by(ArtifactRow.sequence)
            .with_for_update(of=ArtifactRow)
        )

        def run(session: Session) -> None:
            sequences = session.scalars(query).all()
            session.execute(
                delete(ArtifactHoldRow).where(
                    ArtifactHoldRow.hold == hold_id,
                    ArtifactHoldRow.artifact_sequence.in_(sequences),
                )
            )
            if delete_unheld:
                still_held = select(ArtifactHoldRow.artifact_sequence).where(
                    ArtifactHoldRow.artifact_sequence.in_(sequences)
                )
                session.execute(
                    delete(ArtifactRow).where(
                        ArtifactRow.sequence.in_(sequences),
                        ArtifactRow.sequence.not_in(still_held),
                    )
                )

        self._database.write_now(run)


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
