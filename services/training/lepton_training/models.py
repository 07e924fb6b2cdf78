"""Tables of the training service."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Float, ForeignKeyConstraint, Index, Integer, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from lepton_mesh.database import UtcDateTime


class Base(DeclarativeBase):
    """Metadata of all tables."""


class JobRow(Base):
    """A job; what queries need has a column, the rest is in ``record``."""

    __tablename__ = "jobs"
    __table_args__ = (
        UniqueConstraint("workspace", "request_id", name="uq_jobs_request"),
        Index("ix_jobs_state", "state", "create_time"),
        Index("ix_jobs_newest", "workspace", "create_time", "id"),
    )

    workspace: Mapped[str] = mapped_column(String(63), primary_key=True)
    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    node: Mapped[str] = mapped_column(String(64))
    request_id: Mapped[str | None] = mapped_column(String(128))
    create_time: Mapped[datetime] = mapped_column(UtcDateTime())
    last_sequence: Mapped[int] = mapped_column(Integer)
    record: Mapped[dict[str, Any]] = mapped_column(JSON)


class UsageRow(Base):
    """What a workspace's jobs have used lately, as of ``time``."""

    __tablename__ = "workspace_usage"

    workspace: Mapped[str] = mapped_column(String(63), primary_key=True)
    core_seconds: Mapped[float] = mapped_column(Float)
    time: Mapped[datetime] = mapped_column(UtcDateTime())


class EventRow(Base):
    """One event of a job; exactly one of ``job`` and ``measurement`` in ``content``."""

    __tablename__ = "job_events"
    __table_args__ = (
        ForeignKeyConstraint(
            ["workspace", "job_id"], ["jobs.workspace", "jobs.id"], ondelete="CASCADE"
        ),
    )

    workspace: Mapped[str] = mapped_column(String(63), primary_key=True)
    job_id: Mapped[str] = mapped_column(String(63), primary_key=True)
    sequence: Mapped[int] = mapped_column(Integer, primary_key=True)
    time: Mapped[datetime] = mapped_column(UtcDateTime())
    content: Mapped[dict[str, Any]] = mapped_column(JSON)


class DiscardedCheckpointRow(Base):
    """A checkpoint in storage that no job's record names any more, until it is deleted there."""

    __tablename__ = "discarded_checkpoints"

    workspace: Mapped[str] = mapped_column(String(63), primary_key=True)
    artifact: Mapped[str] = mapped_column(String(128), primary_key=True)
