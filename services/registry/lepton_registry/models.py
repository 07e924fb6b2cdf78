"""The tables of the registry; ``migrations/versions`` builds the same."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    ForeignKeyConstraint,
    Index,
    Integer,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from lepton_mesh.database import UtcDateTime


class Base(DeclarativeBase):
    """What every table of this database derives from."""


class ModelRow(Base):
    __tablename__ = "models"

    workspace: Mapped[str] = mapped_column(String(63), primary_key=True)
    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    description: Mapped[str] = mapped_column(Text)
    labels: Mapped[dict[str, str]] = mapped_column(JSON)
    aliases: Mapped[dict[str, int]] = mapped_column(JSON)
    latest: Mapped[int] = mapped_column(Integer)
    creator: Mapped[str] = mapped_column(String(200))
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    revision: Mapped[int] = mapped_column(Integer)


class VersionRow(Base):
    __tablename__ = "model_versions"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace", "model"],
            ["models.workspace", "models.id"],
            name="fk_model_versions_model",
            ondelete="CASCADE",
        ),
        # NULLs are distinct in both databases, so versions without a request id do not collide.
        UniqueConstraint("workspace", "model", "request_id", name="uq_model_versions_request"),
    )

    workspace: Mapped[str] = mapped_column(String(63), primary_key=True)
    model: Mapped[str] = mapped_column(String(63), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    state: Mapped[int] = mapped_column(Integer)
    artifact: Mapped[str] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(String(64))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    signature: Mapped[dict[str, Any]] = mapped_column(JSON)
    metrics: Mapped[dict[str, float]] = mapped_column(JSON)
    evaluation: Mapped[dict[str, Any]] = mapped_column(JSON, deferred=True)
    parity: Mapped[dict[str, Any]] = mapped_column(JSON, deferred=True)
    lineage: Mapped[dict[str, Any]] = mapped_column(JSON)
    class_names: Mapped[list[str]] = mapped_column(JSON)
    description: Mapped[str] = mapped_column(Text)
    labels: Mapped[dict[str, str]] = mapped_column(JSON)
    attachments: Mapped[dict[str, str]] = mapped_column(JSON)
    creator: Mapped[str] = mapped_column(String(200))
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    request_id: Mapped[str | None] = mapped_column(String(128))
    revision: Mapped[int] = mapped_column(Integer)


class ArtifactHoldRow(Base):
    __tablename__ = "artifact_holds"
    __table_args__ = (
        Index("ix_artifact_holds_model", "workspace", "model"),
        Index("ix_artifact_holds_phase", "phase", "held"),
    )

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    workspace: Mapped[str] = mapped_column(String(63))
    # No foreign key: a hold outlives its model until storage has let go of the files.
    model: Mapped[str] = mapped_column(String(63))
    artifacts: Mapped[list[str]] = mapped_column(JSON)
    phase: Mapped[int] = mapped_column(Integer)
    held: Mapped[bool] = mapped_column(Boolean)
    since: Mapped[datetime] = mapped_column(UtcDateTime)
