"""The tables of the inference service; ``migrations/versions`` builds the same."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Boolean, Integer, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from lepton_mesh.database import UtcDateTime


class Base(DeclarativeBase):
    """What every table of this database derives from."""


class EndpointRow(Base):
    __tablename__ = "endpoints"

    workspace: Mapped[str] = mapped_column(String(63), primary_key=True)
    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    targets: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    settings: Mapped[dict[str, Any]] = mapped_column(JSON)
    shadow: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    ensemble: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    unloaded: Mapped[bool] = mapped_column(Boolean)
    state: Mapped[str] = mapped_column(String(16))
    failure_reason: Mapped[str] = mapped_column(String(64))
    failure_message: Mapped[str] = mapped_column(String(1000))
    execution_provider: Mapped[str] = mapped_column(String(64))
    description: Mapped[str] = mapped_column(String(4000))
    labels: Mapped[dict[str, str]] = mapped_column(JSON)
    creator: Mapped[str] = mapped_column(String(128))
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    updated: Mapped[datetime] = mapped_column(UtcDateTime)
    revision: Mapped[int] = mapped_column(Integer)
    generation: Mapped[int] = mapped_column(Integer)
