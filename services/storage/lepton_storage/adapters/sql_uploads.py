"""Uploads and blobs in the database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, Select, delete, exists, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lepton_mesh.database import Database
from lepton_storage.errors import UploadNotFound, UploadRequestReused
from lepton_storage.models import (
    ArtifactRow,
    BlobRow,
    CondemnedObjectRow,
    DatasetFileRow,
    UploadRow,
    WorkspaceKeyRow,
)
from lepton_storage.records import Blob, Upload

IDS_AT_ONCE = 500
"""In one statement; SQLite takes at most 32,766 parameters."""


class SqlUploadRecords:
    """The UploadRecords port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, upload: Upload, *, reuse: bool) -> Upload:
        def run(session: Session) -> Upload:
            if upload.request_id:
                existing = _by_request(session, upload)
                if existing is not None:
                    return _same(upload, existing)
            row = _row(upload)
            if reuse:
                query = _current(upload.workspace, [upload.sha256])
                blob = session.scalar(query.with_for_update(of=BlobRow))
                if blob is not None and blob.size_bytes == upload.size_bytes:
                    row.blob_id = blob.id
            session.add(row)
            return _upload(row)

        try:
            return self._database.write_now(run)
        except IntegrityError:  # another process was first with this request_id
            return self._database.write_now(run)

    def get(self, workspace: str, id: str) -> Upload | None:
        def run(session: Session) -> Upload | None:
            row = session.get(UploadRow, id)
            return _upload(row) if row is not None and row.workspace == workspace else None

        return self._database.read_now(run)

    def complete(self, upload: Upload, blob: Blob) -> Upload:
        def run(session: Session) -> Upload:
            row = session.get(UploadRow, upload.id, with_for_update=True)
            if row is None:
                raise UploadNotFound(
                    f"upload '{upload.id}' was deleted, or its time was up; create it anew",
                    upload=upload.id,
                )
            if row.blob_id is None:
                found = session.scalar(
                    select(BlobRow)
                    .where(
                        BlobRow.workspace == blob.workspace,
                        BlobRow.sha256 == blob.sha256,
                        BlobRow.key_id == blob.key_id,
                    )
                    .with_for_update()
                )
                if found is None:
                    session.add(
                        BlobRow(
                            id=blob.id,
                            workspace=blob.workspace,
                            sha256=blob.sha256,
                            size_bytes=blob.size_bytes,
                            key_id=blob.key_id,
                        )
                    )
                    session.flush()
                row.blob_id = blob.id if found is None else found.id
                if found is not None and found.id != blob.id:
                    condemn(session, [blob.id])
            return _upload(row)

        try:
            return self._database.write_now(run)
        except IntegrityError:  # another process was first with the same bytes
            return self._database.write_now(run)

    def delete(self, workspace: str, id: str) -> None:
        which = (UploadRow.workspace == workspace, UploadRow.id == id)
        self._database.write_now(lambda session: delete_uploads(session, *which))

    def incomplete(self) -> Sequence[Upload]:
        query = select(UploadRow).where(UploadRow.blob_id.is_(None))
        return self._database.read_now(
            lambda session: [_upload(row) for row in session.scalars(query)]
        )

    def delete_expired(self, now: datetime) -> Sequence[Upload]:
        which = UploadRow.expire_time <= now
        return self._database.write_now(lambda session: delete_uploads(session, which))

    def known(self, ids: Iterable[str]) -> set[str]:
        def run(session: Session) -> set[str]:
            asked, found = list(ids), set[str]()
            for start in range(0, len(asked), IDS_AT_ONCE):
                some = asked[start : start + IDS_AT_ONCE]
                for row in (BlobRow, UploadRow):
                    found.update(session.scalars(select(row.id).where(row.id.in_(some))))
            return found

        return self._database.read_now(run)

    def find_blobs(
        self, workspace: str, sha256s: Iterable[str], creator: str | None
    ) -> Mapping[str, Blob]:
        asked = sorted(set(sha256s))

        def run(session: Session) -> Mapping[str, Blob]:
            found = dict[str, Blob]()
            for start in range(0, len(asked), IDS_AT_ONCE):
                query = _current(workspace, asked[start : start + IDS_AT_ONCE])
                if creator is not None:
                    sent = exists().where(UploadRow.blob_id == BlobRow.id)
                    query = query.where(sent.where(UploadRow.creator == creator))
                found.update((row.sha256, to_blob(row)) for row in session.scalars(query))
            return found

        return self._database.read_now(run)

    def collect(self) -> Sequence[Blob]:
        def run(session: Session) -> Sequence[Blob]:
            # Locked, on PostgreSQL: whoever is about to refer to one of them waits, and then
            # finds it gone. SQLite has one writer at a time.
            rows = session.scalars(
                select(BlobRow)
                .where(
                    *(
                        ~exists().where(other.blob_id == BlobRow.id)
                        for other in (UploadRow, DatasetFileRow, ArtifactRow)
                    )
                )
                .with_for_update(skip_locked=True)
            ).all()
            for row in rows:
                session.delete(row)
            condemn(session, [row.id for row in rows])
            return [to_blob(row) for row in rows]

        return self._database.write_now(run)

    def condemned(self) -> Sequence[str]:
        query = select(CondemnedObjectRow.id)
        return self._database.read_now(lambda session: session.scalars(query).all())

    def executed(self, ids: Iterable[str]) -> None:
        statement = delete(CondemnedObjectRow).where(CondemnedObjectRow.id.in_(list(ids)))
        self._database.write_now(lambda session: session.execute(statement))


def condemn(session: Session, ids: Iterable[str]) -> None:
    """Writes down that objects are to be deleted, in the transaction that gives them up."""
    for id in ids:
        session.merge(CondemnedObjectRow(id=id))


def delete_uploads(session: Session, *which: ColumnElement[bool]) -> Sequence[Upload]:
    """Forgets uploads and returns them; one that was not complete may have left an object."""
    rows = session.scalars(delete(UploadRow).where(*which).returning(UploadRow)).all()
    condemn(session, [row.id for row in rows if row.blob_id is None])
    return [_upload(row) for row in rows]


def to_blob(row: BlobRow) -> Blob:
    """The blob of a row."""
    return Blob(row.id, row.workspace, row.sha256, row.size_bytes, row.key_id)


def _current(workspace: str, sha256s: Sequence[str]) -> Select[BlobRow]:
    """The blobs with these digests under the workspace's current key: one each at most."""
    return (
        select(BlobRow)
        .join(WorkspaceKeyRow, WorkspaceKeyRow.id == BlobRow.key_id)
        .where(
            BlobRow.workspace == workspace,
            BlobRow.sha256.in_(sha256s),
            WorkspaceKeyRow.current == workspace,
        )
    )


def _by_request(session: Session, upload: Upload) -> Upload | None:
    row = session.scalar(
        select(UploadRow).where(
            UploadRow.workspace == upload.workspace,
            UploadRow.creator == upload.creator,
            UploadRow.request_id == upload.request_id,
        )
    )
    return None if row is None else _upload(row)


def _same(asked: Upload, existing: Upload) -> Upload:
    if (asked.sha256, asked.size_bytes) != (existing.sha256, existing.size_bytes):
        raise UploadRequestReused(
            f"request_id '{asked.request_id}' began an upload of other bytes; use a new one",
            request_id=asked.request_id,
            upload=existing.id,
        )
    return existing


def _row(upload: Upload) -> UploadRow:
    return UploadRow(
        id=upload.id,
        workspace=upload.workspace,
        creator=upload.creator,
        request_id=upload.request_id or None,
        size_bytes=upload.size_bytes,
        sha256=upload.sha256,
        create_time=upload.create_time,
        expire_time=upload.expire_time,
        blob_id=upload.blob_id,
    )


def _upload(row: UploadRow) -> Upload:
    return Upload(
        id=row.id,
        workspace=row.workspace,
        creator=row.creator,
        request_id=row.request_id or "",
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        create_time=row.create_time,
        expire_time=row.expire_time,
        blob_id=row.blob_id,
    )
