"""The tables of the auth service; ``migrations/versions`` builds the same."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, BigInteger, Boolean, ForeignKey, Index, Integer, LargeBinary, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from lepton_mesh.database import UtcDateTime


class Base(DeclarativeBase):
    """What every table of this database derives from."""


class UserRow(Base):
    __tablename__ = "users"

    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    display_name: Mapped[str] = mapped_column(String(200))
    password_hash: Mapped[str] = mapped_column(String(256))
    disabled: Mapped[bool] = mapped_column(Boolean)
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    revision: Mapped[int] = mapped_column(Integer)


class WorkspaceRow(Base):
    __tablename__ = "workspaces"

    id: Mapped[str] = mapped_column(String(63), primary_key=True)
    display_name: Mapped[str] = mapped_column(String(200))
    created: Mapped[datetime] = mapped_column(UtcDateTime)


class MembershipRow(Base):
    __tablename__ = "memberships"

    workspace: Mapped[str] = mapped_column(ForeignKey("workspaces.id"), primary_key=True)
    user: Mapped[str] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True
    )
    role: Mapped[int] = mapped_column(Integer)


class ApiKeyRow(Base):
    __tablename__ = "api_keys"
    __table_args__ = (Index("ix_api_keys_owner", "workspace", "user", "created", "id"),)

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    workspace: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    role: Mapped[int] = mapped_column(Integer)
    display_name: Mapped[str] = mapped_column(String(200))
    secret_digest: Mapped[bytes] = mapped_column(LargeBinary(32))
    created: Mapped[datetime] = mapped_column(UtcDateTime)
    expires: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_used: Mapped[datetime | None] = mapped_column(UtcDateTime)


class RefreshTokenRow(Base):
    __tablename__ = "refresh_tokens"

    digest: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    family: Mapped[str] = mapped_column(String(32), index=True)
    user: Mapped[str] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    workspace: Mapped[str] = mapped_column(ForeignKey("workspaces.id"))
    expires: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    used: Mapped[bool] = mapped_column(Boolean)


class AuditEventRow(Base):
    __tablename__ = "audit_events"
    __table_args__ = (Index("ix_audit_events_workspace", "workspace", "id"),)

    # SQLite counts up by itself in nothing but an INTEGER, which has 64 bits there.
    id: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    workspace: Mapped[str] = mapped_column(String(63))
    time: Mapped[datetime] = mapped_column(UtcDateTime)
    subject: Mapped[str] = mapped_column(String(200))
    action: Mapped[str] = mapped_column(String(64))
    resource: Mapped[str] = mapped_column(String(300))
    allowed: Mapped[bool] = mapped_column(Boolean)
    reason: Mapped[str] = mapped_column(String(64))
    trace_id: Mapped[str] = mapped_column(String(32))


class JoinTokenRow(Base):
    __tablename__ = "join_tokens"

    digest: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    spiffe_id: Mapped[str] = mapped_column(String(400))
    dns_names: Mapped[list[str]] = mapped_column(JSON)
    ip_addresses: Mapped[list[str]] = mapped_column(JSON)
    expires: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    used: Mapped[datetime | None] = mapped_column(UtcDateTime)
    renewable_until: Mapped[datetime | None] = mapped_column(UtcDateTime)


class CertificateRow(Base):
    __tablename__ = "certificates"

    serial: Mapped[str] = mapped_column(String(40), primary_key=True)
    spiffe_id: Mapped[str] = mapped_column(String(400))
    expires: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    revoked: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)
    family: Mapped[str] = mapped_column(String(40), index=True, server_default="")
    renewable_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
