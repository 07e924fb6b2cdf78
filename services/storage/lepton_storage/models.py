"""The tables of storage's database; `migrations` makes them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, BigInteger, ForeignKey, Index, Integer, LargeBinary, Text
from sqlalchemy import String as Varchar
from sqlalchemy import UniqueConstraint as Unique
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from lepton_mesh.database import UtcDateTime

# SQLite gives out row numbers by itself only for a column of type INTEGER.
RowNumber = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """What every table shares."""


class WorkspaceKeyRow(Base):
    __tablename__ = "workspace_keys"

    id: Mapped[str] = mapped_column(Varchar(32), primary_key=True)
    workspace: Mapped[str] = mapped_column(Varchar(128), index=True)
    current: Mapped[str | None] = mapped_column(Varchar(128), unique=True)
    """The workspace while this is its key, else null: at most one is."""
    kek_id: Mapped[str] = mapped_column(Varchar(128))
    wrapped: Mapped[bytes | None] = mapped_column(LargeBinary)


class BlobRow(Base):
    __tablename__ = "blobs"
    __table_args__ = (Unique("workspace", "sha256", "key_id", name="uq_blobs_content"),)

    id: Mapped[str] = mapped_column(Varchar(32), primary_key=True)
    workspace: Mapped[str] = mapped_column(Varchar(128))
    sha256: Mapped[str] = mapped_column(Varchar(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    key_id: Mapped[str] = mapped_column(ForeignKey("workspace_keys.id"))


class UploadRow(Base):
    __tablename__ = "uploads"
    __table_args__ = (Unique("workspace", "creator", "request_id", name="uq_uploads_request"),)

    id: Mapped[str] = mapped_column(Varchar(32), primary_key=True)
    workspace: Mapped[str] = mapped_column(Varchar(128))
    creator: Mapped[str] = mapped_column(Varchar(256))
    request_id: Mapped[str | None] = mapped_column(Varchar(128))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(Varchar(64))
    create_time: Mapped[datetime] = mapped_column(UtcDateTime)
    expire_time: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    blob_id: Mapped[str | None] = mapped_column(ForeignKey("blobs.id"), index=True)


class CondemnedObjectRow(Base):
    __tablename__ = "condemned_objects"

    id: Mapped[str] = mapped_column(Varchar(32), primary_key=True)
    """An object that this database had and gave up; it may still lie in the object store."""


class DatasetRow(Base):
    __tablename__ = "datasets"
    __table_args__ = (Unique("workspace", "name", name="uq_datasets_name"),)

    uid: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    workspace: Mapped[str] = mapped_column(Varchar(128))
    name: Mapped[str] = mapped_column(Varchar(63))
    description: Mapped[str] = mapped_column(Text)
    labels: Mapped[dict[str, str]] = mapped_column(JSON)
    creator: Mapped[str] = mapped_column(Varchar(256))
    create_time: Mapped[datetime] = mapped_column(UtcDateTime)
    latest: Mapped[int] = mapped_column(Integer)


class DatasetVersionRow(Base):
    __tablename__ = "dataset_versions"
    __table_args__ = (
        Unique("dataset_uid", "number", name="uq_dataset_versions_number"),
        Unique("dataset_uid", "digest", name="uq_dataset_versions_digest"),
    )

    uid: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    dataset_uid: Mapped[int] = mapped_column(ForeignKey("datasets.uid", ondelete="CASCADE"))
    number: Mapped[int] = mapped_column(Integer)
    format: Mapped[str] = mapped_column(Varchar(16))
    digest: Mapped[str] = mapped_column(Varchar(80))
    manifest: Mapped[bytes] = mapped_column(LargeBinary, deferred=True)
    signature: Mapped[str] = mapped_column(Varchar(128))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    statistics: Mapped[dict[str, str]] = mapped_column(JSON)
    description: Mapped[str] = mapped_column(Text)
    labels: Mapped[dict[str, str]] = mapped_column(JSON)
    creator: Mapped[str] = mapped_column(Varchar(256))
    create_time: Mapped[datetime] = mapped_column(UtcDateTime)


class DatasetFileRow(Base):
    __tablename__ = "dataset_files"

    version_uid: Mapped[int] = mapped_column(
        ForeignKey("dataset_versions.uid", ondelete="CASCADE"), primary_key=True
    )
    path: Mapped[str] = mapped_column(Varchar(1024), primary_key=True)
    media_type: Mapped[str] = mapped_column(Varchar(255))
    blob_id: Mapped[str] = mapped_column(ForeignKey("blobs.id"), index=True)
    blob: Mapped[BlobRow] = relationship()


class ArtifactRow(Base):
    __tablename__ = "artifacts"
    __table_args__ = (Index("ix_artifacts_workspace", "workspace", "sequence"),)

    sequence: Mapped[int] = mapped_column(RowNumber, primary_key=True)
    id: Mapped[str] = mapped_column(Varchar(32), unique=True)
    workspace: Mapped[str] = mapped_column(Varchar(128))
    media_type: Mapped[str] = mapped_column(Varchar(255))
    filename: Mapped[str] = mapped_column(Varchar(255))
    source: Mapped[str] = mapped_column(Varchar(255))
    labels: Mapped[dict[str, str]] = mapped_column(JSON)
    create_time: Mapped[datetime] = mapped_column(UtcDateTime)
    blob_id: Mapped[str] = mapped_column(ForeignKey("blobs.id"), index=True)
    blob: Mapped[BlobRow] = relationship()


class ArtifactHoldRow(Base):
    __tablename__ = "artifact_holds"

    hold: Mapped[str] = mapped_column(Varchar(32), primary_key=True)
    # Without a cascade: the database itself deletes no artifact that is held.
    artifact_sequence: Mapped[int] = mapped_column(
        ForeignKey("artifacts.sequence"), primary_key=True, index=True
    )
    holder: Mapped[str] = mapped_column(Varchar(255))
