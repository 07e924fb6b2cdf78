"""Datasets and versions in the database."""

from __future__ import annotations

import builtins
from collections.abc import Sequence

from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, joinedload, undefer

from lepton_mesh.database import Database
from lepton_mesh.resources import check_etag
from lepton_storage.adapters.sql_uploads import IDS_AT_ONCE, to_blob
from lepton_storage.errors import BlobNotFound, DatasetExists, DatasetNotFound
from lepton_storage.models import (
    BlobRow,
    DatasetFileRow,
    DatasetRow,
    DatasetVersionRow,
)
from lepton_storage.records import Blob, DataFile, Dataset, DatasetFormat, DatasetVersion


class SqlDatasetRecords:
    """The DatasetRecords port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, dataset: Dataset) -> Dataset:
        def run(session: Session) -> Dataset:
            row = DatasetRow(
                workspace=dataset.workspace,
                name=dataset.id,
                description=dataset.description,
                labels=dict(dataset.labels),
                creator=dataset.creator,
                create_time=dataset.create_time,
                latest=0,
            )
            session.add(row)
            session.flush()
            return _dataset(row)

        try:
            return self._database.write_now(run)
        except IntegrityError:
            raise DatasetExists(
                f"dataset '{dataset.id}' exists already; add a version to it, or choose another id",
                dataset=dataset.id,
            ) from None

    def get(self, workspace: str, id: str) -> Dataset | None:
        def run(session: Session) -> Dataset | None:
            row = _row(session, workspace, id)
            return None if row is None else _dataset(row)

        return self._database.read_now(run)

    def list(self, workspace: str, after: str, limit: int) -> Sequence[Dataset]:
        query = (
            select(DatasetRow)
            .where(DatasetRow.workspace == workspace, DatasetRow.name > after)
            .order_by(DatasetRow.name)
            .limit(limit)
        )
        return self._database.read_now(
            lambda session: [_dataset(row) for row in session.scalars(query)]
        )

    def delete(self, workspace: str, id: str, etag: str = "") -> bool:
        def run(session: Session) -> bool:
            # The lock that versions are added under: none comes between look and deletion.
            row = _row(session, workspace, id, lock=True)
            if row is None:
                return False
            check_etag(etag, _dataset(row).etag, f"datasets/{id}")
            session.execute(delete(DatasetRow).where(DatasetRow.uid == row.uid))
            return True

        return self._database.write_now(run)

    def add_version(self, dataset: Dataset, version: DatasetVersion) -> DatasetVersion:
        def run(session: Session) -> DatasetVersion:
            # The lock on the dataset numbers versions one after the other.
            row = session.get(DatasetRow, dataset.uid, with_for_update=True)
            if row is None:
                raise DatasetNotFound(
                    f"dataset '{dataset.id}' was just deleted; create it anew", dataset=dataset.id
                )
            existing = _by_digest(session, dataset, version.digest)
            if existing is not None:
                return existing
            row.latest += 1
            made = _version_row(dataset, version, row.latest)
            session.add(made)
            session.flush()
            _hold_blobs(session, version.files)
            session.execute(insert(DatasetFileRow), [_file_values(made, f) for f in version.files])
            return _version(made, dataset.id, version.manifest, version.files)

        return self._database.write_now(run)

    def find_version(self, dataset: Dataset, digest: str) -> DatasetVersion | None:
        return self._database.read_now(lambda session: _by_digest(session, dataset, digest))

    def get_version(self, workspace: str, dataset: str, number: int) -> DatasetVersion | None:
        def run(session: Session) -> DatasetVersion | None:
            owner = _row(session, workspace, dataset)
            if owner is None:
                return None
            row = session.scalar(
                select(DatasetVersionRow)
                .where(
                    DatasetVersionRow.dataset_uid == owner.uid,
                    DatasetVersionRow.number == (number or owner.latest),
                )
                .options(undefer(DatasetVersionRow.manifest))
            )
            return None if row is None else _whole(session, row, dataset)

        return self._database.read_now(run)

    def get_blob(self, workspace: str, dataset: str, number: int, path: str) -> Blob | None:
        query = (
            select(BlobRow)
            .join(DatasetFileRow, DatasetFileRow.blob_id == BlobRow.id)
            .join(DatasetVersionRow, DatasetVersionRow.uid == DatasetFileRow.version_uid)
            .join(DatasetRow, DatasetRow.uid == DatasetVersionRow.dataset_uid)
            .where(
                DatasetRow.workspace == workspace,
                DatasetRow.name == dataset,
                DatasetVersionRow.number == number,
                DatasetFileRow.path == path,
            )
        )

        def run(session: Session) -> Blob | None:
            row = session.scalar(query)
            return None if row is None else to_blob(row)

        return self._database.read_now(run)

    def list_versions(
        self, dataset: Dataset, before: int, limit: int
    ) -> builtins.list[DatasetVersion]:
        query = (
            select(DatasetVersionRow)
            .where(DatasetVersionRow.dataset_uid == dataset.uid)
            .order_by(DatasetVersionRow.number.desc())
            .limit(limit)
        )
        if before:
            query = query.where(DatasetVersionRow.number < before)
        return self._database.read_now(
            lambda session: [_version(row, dataset.id, b"", ()) for row in session.scalars(query)]
        )

    def any_version(self) -> bool:
        query = select(DatasetVersionRow.uid).limit(1)
        return self._database.read_now(lambda session: session.scalar(query)) is not None


def _row(session: Session, workspace: str, id: str, *, lock: bool = False) -> DatasetRow | None:
    query = select(DatasetRow).where(DatasetRow.workspace == workspace, DatasetRow.name == id)
    return session.scalar(query.with_for_update() if lock else query)


def _by_digest(session: Session, dataset: Dataset, digest: str) -> DatasetVersion | None:
    row = session.scalar(
        select(DatasetVersionRow)
        .where(DatasetVersionRow.dataset_uid == dataset.uid, DatasetVersionRow.digest == digest)
        .options(undefer(DatasetVersionRow.manifest))
    )
    return None if row is None else _whole(session, row, dataset.id)


def _hold_blobs(session: Session, files: Sequence[DataFile]) -> None:
    """Locks the files' blobs, in one order for all; raises BlobNotFound if one is gone."""
    ids = sorted({file.blob.id for file in files})
    held = set[str]()
    for start in range(0, len(ids), IDS_AT_ONCE):
        some = BlobRow.id.in_(ids[start : start + IDS_AT_ONCE])
        held.update(
            session.scalars(select(BlobRow.id).where(some).order_by(BlobRow.id).with_for_update())
        )
    for file in files:
        if file.blob.id not in held:
            raise BlobNotFound(
                f"the bytes of '{file.path}' were just deleted; upload the file again",
                sha256=file.blob.sha256,
            )


def _files(session: Session, row: DatasetVersionRow) -> tuple[DataFile, ...]:
    files = session.scalars(
        select(DatasetFileRow)
        .where(DatasetFileRow.version_uid == row.uid)
        .options(joinedload(DatasetFileRow.blob))
    )
    # Sorted here: databases differ in how they collate.
    return tuple(
        sorted(
            (DataFile(file.path, file.media_type, to_blob(file.blob)) for file in files),
            key=lambda file: file.path,
        )
    )


def _dataset(row: DatasetRow) -> Dataset:
    return Dataset(
        id=row.name,
        workspace=row.workspace,
        description=row.description,
        labels=row.labels,
        creator=row.creator,
        create_time=row.create_time,
        latest=row.latest,
        uid=row.uid,
    )


def _version_row(dataset: Dataset, version: DatasetVersion, number: int) -> DatasetVersionRow:
    return DatasetVersionRow(
        dataset_uid=dataset.uid,
        number=number,
        format=version.format.value,
        digest=version.digest,
        manifest=version.manifest,
        signature=version.signature,
        size_bytes=version.size_bytes,
        statistics=dict(version.statistics),
        description=version.description,
        labels=dict(version.labels),
        creator=version.creator,
        create_time=version.create_time,
    )


def _file_values(version: DatasetVersionRow, file: DataFile) -> dict[str, object]:
    return {
        "version_uid": version.uid,
        "path": file.path,
        "media_type": file.media_type,
        "blob_id": file.blob.id,
    }


def _whole(session: Session, row: DatasetVersionRow, dataset: str) -> DatasetVersion:
    return _version(row, dataset, row.manifest, _files(session, row))


def _version(
    row: DatasetVersionRow, dataset: str, manifest: bytes, files: tuple[DataFile, ...]
) -> DatasetVersion:
    return DatasetVersion(
        dataset=dataset,
        number=row.number,
        format=DatasetFormat(row.format),
        digest=row.digest,
        manifest=manifest,
        signature=row.signature,
        size_bytes=row.size_bytes,
        statistics=row.statistics,
        description=row.description,
        labels=row.labels,
        creator=row.creator,
        create_time=row.create_time,
        files=files,
    )
