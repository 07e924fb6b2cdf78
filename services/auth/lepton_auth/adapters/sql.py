"""The records in SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import and_, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from lepton_auth.adapters.sql_certificates import SqlCertificates, SqlJoinGrants
from lepton_auth.models import (
    ApiKeyRow,
    AuditEventRow,
    Base,
    MembershipRow,
    RefreshTokenRow,
    UserRow,
    WorkspaceRow,
)
from lepton_auth.ports import Records
from lepton_auth.records import ApiKey, AuditEvent, RefreshToken, User, Workspace
from lepton_mesh.caller import Role
from lepton_mesh.database import Database

T = TypeVar("T")


class SqlStore:
    """Transactions over the service's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, function: Callable[[Records], T]) -> T:
        return await self._database.read(lambda session: function(SqlRecords(session)))

    async def write(self, function: Callable[[Records], T]) -> T:
        return await self._database.write(lambda session: function(SqlRecords(session, True)))


class SqlRecords:
    """Every aggregate over one session."""

    def __init__(self, session: Session, writes: bool = False) -> None:
        self.users = SqlUsers(session, writes)
        self.workspaces = SqlWorkspaces(session)
        self.api_keys = SqlApiKeys(session)
        self.refresh_tokens = SqlRefreshTokens(session)
        self.audit = SqlAudit(session)
        self.join_grants = SqlJoinGrants(session)
        self.certificates = SqlCertificates(session)


class SqlUsers:
    def __init__(self, session: Session, writes: bool) -> None:
        self._session = session
        self._writes = writes

    def get(self, user: str) -> User | None:
        query = select(UserRow).where(UserRow.id == user)
        if self._writes:
            # Held until the transaction ends, so that what is decided on it stays true
            # (PostgreSQL; SQLite has one writer anyway).
            query = query.with_for_update()
        row = self._session.scalar(query)
        return _user(row) if row else None

    def add(self, user: User) -> bool:
        return _insert_new(self._session, UserRow, asdict(user))

    def replace(self, user: User) -> None:
        values = asdict(user)
        self._session.execute(update(UserRow).where(UserRow.id == user.id).values(**values))

    def delete(self, user: str) -> None:
        self._session.execute(delete(UserRow).where(UserRow.id == user))

    def members(self, workspace: str, after: str, limit: int) -> Sequence[tuple[User, Role]]:
        query = (
            select(UserRow, MembershipRow.role)
            .join(MembershipRow, MembershipRow.user == UserRow.id)
            .where(MembershipRow.workspace == workspace, UserRow.id > after)
            .order_by(UserRow.id)
            .limit(limit)
        )
        return [(_user(row), Role(role)) for row, role in self._session.execute(query)]

    def roles(self, user: str) -> Mapping[str, Role]:
        query = select(MembershipRow.workspace, MembershipRow.role).where(
            MembershipRow.user == user
        )
        return {workspace: Role(role) for workspace, role in self._session.execute(query)}

    def standing(self, user: str, workspace: str) -> Role | None:
        # Not held as by `get`: two admins who change each other would wait for each other.
        disabled = self._session.scalar(select(UserRow.disabled).where(UserRow.id == user))
        return self.roles(user).get(workspace, Role.NONE) if disabled is False else None

    def set_role(self, user: str, workspace: str, role: Role) -> None:
        where = (MembershipRow.user == user, MembershipRow.workspace == workspace)
        if role is Role.NONE:
            self._session.execute(delete(MembershipRow).where(*where))
        elif not _insert_new(
            self._session,
            MembershipRow,
            {"user": user, "workspace": workspace, "role": int(role)},
        ):
            self._session.execute(update(MembershipRow).where(*where).values(role=int(role)))

    def other_admins(self, workspace: str, user: str) -> int:
        self._session.execute(
            select(WorkspaceRow.id).where(WorkspaceRow.id == workspace).with_for_update()
        )
        query = (
            select(func.count())
            .select_from(MembershipRow)
            .join(UserRow, MembershipRow.user == UserRow.id)
            .where(
                MembershipRow.workspace == workspace,
                MembershipRow.role == int(Role.ADMIN),
                MembershipRow.user != user,
                UserRow.disabled.is_(False),
            )
        )
        return self._session.scalar(query) or 0


class SqlWorkspaces:
    def __init__(self, session: Session) -> None:
        self._session = session

    def exists(self, workspace: str) -> bool:
        return self._session.get(WorkspaceRow, workspace) is not None

    def add(self, workspace: Workspace) -> bool:
        return _insert_new(self._session, WorkspaceRow, asdict(workspace))

    def of_user(self, user: str, after: str, limit: int) -> Sequence[tuple[Workspace, Role]]:
        query = (
            select(WorkspaceRow, MembershipRow.role)
            .join(MembershipRow, MembershipRow.workspace == WorkspaceRow.id)
            .where(MembershipRow.user == user, WorkspaceRow.id > after)
            .order_by(WorkspaceRow.id)
            .limit(limit)
        )
        return [
            (Workspace(row.id, row.display_name, row.created), Role(role))
            for row, role in self._session.execute(query)
        ]


class SqlApiKeys:
    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, key: str) -> ApiKey | None:
        row = self._session.get(ApiKeyRow, key)
        return _api_key(row) if row else None

    def add(self, key: ApiKey) -> None:
        self._session.add(ApiKeyRow(**{**asdict(key), "role": int(key.role)}))
        self._session.flush()

    def of_user(
        self, workspace: str, user: str, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[ApiKey]:
        query = (
            select(ApiKeyRow)
            .where(ApiKeyRow.workspace == workspace, ApiKeyRow.user == user)
            .order_by(ApiKeyRow.created.desc(), ApiKeyRow.id.desc())
            .limit(limit)
        )
        if before:
            time, id_ = before
            query = query.where(
                or_(
                    ApiKeyRow.created < time,
                    and_(ApiKeyRow.created == time, ApiKeyRow.id < id_),
                )
            )
        return [_api_key(row) for row in self._session.scalars(query)]

    def touch(self, key: str, used: datetime) -> None:
        self._session.execute(update(ApiKeyRow).where(ApiKeyRow.id == key).values(last_used=used))

    def delete(self, key: str) -> None:
        self._session.execute(delete(ApiKeyRow).where(ApiKeyRow.id == key))


class SqlRefreshTokens:
    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, digest: bytes) -> RefreshToken | None:
        row = self._session.get(RefreshTokenRow, digest)
        return _refresh_token(row, used=row.used) if row else None

    def add(self, token: RefreshToken) -> None:
        self._session.add(RefreshTokenRow(**asdict(token)))
        self._session.flush()

    def use(self, digest: bytes) -> RefreshToken | None:
        # One statement decides who was first.
        first = self._session.execute(
            update(RefreshTokenRow)
            .where(RefreshTokenRow.digest == digest, RefreshTokenRow.used.is_(False))
            .values(used=True)
            .returning(RefreshTokenRow.digest)
        ).first()
        row = self._session.get(RefreshTokenRow, digest, populate_existing=True)
        return _refresh_token(row, used=first is None) if row else None

    def revoke_family(self, family: str) -> None:
        self._session.execute(delete(RefreshTokenRow).where(RefreshTokenRow.family == family))

    def revoke_user(self, user: str) -> None:
        self._session.execute(delete(RefreshTokenRow).where(RefreshTokenRow.user == user))

    def delete_expired(self, now: datetime) -> int:
        gone = self._session.execute(
            delete(RefreshTokenRow)
            .where(RefreshTokenRow.expires < now)
            .returning(RefreshTokenRow.digest)
        )
        return len(gone.all())


class SqlAudit:
    def __init__(self, session: Session) -> None:
        self._session = session

    def add(self, event: AuditEvent) -> None:
        values = asdict(event)
        del values["id"]
        self._session.add(AuditEventRow(**values))
        self._session.flush()

    def of_workspace(self, workspace: str, before: int | None, limit: int) -> Sequence[AuditEvent]:
        query = (
            select(AuditEventRow)
            .where(AuditEventRow.workspace == workspace)
            .order_by(AuditEventRow.id.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(AuditEventRow.id < before)
        return [
            AuditEvent(
                workspace=row.workspace,
                time=row.time,
                subject=row.subject,
                action=row.action,
                resource=row.resource,
                allowed=row.allowed,
                reason=row.reason,
                trace_id=row.trace_id,
                id=row.id,
            )
            for row in self._session.scalars(query)
        ]

    def delete_oldest(self, before: datetime, limit: int) -> int:
        # Ids grow with time, so that this needs no index of times.
        oldest = select(AuditEventRow.id).order_by(AuditEventRow.id).limit(limit)
        gone = self._session.execute(
            delete(AuditEventRow)
            .where(AuditEventRow.id.in_(oldest), AuditEventRow.time < before)
            .returning(AuditEventRow.id)
        )
        return len(gone.all())


def _insert_new(session: Session, table: type[Base], values: Mapping[str, Any]) -> bool:
    """Inserts unless the primary key is there; says whether it did."""
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    key = list(table.__table__.primary_key)
    statement = insert(table).values(**values).on_conflict_do_nothing().returning(*key)
    return session.execute(statement).first() is not None


def _user(row: UserRow) -> User:
    return User(
        id=row.id,
        display_name=row.display_name,
        password_hash=row.password_hash,
        disabled=row.disabled,
        created=row.created,
        revision=row.revision,
    )


def _api_key(row: ApiKeyRow) -> ApiKey:
    return ApiKey(
        id=row.id,
        user=row.user,
        workspace=row.workspace,
        role=Role(row.role),
        display_name=row.display_name,
        secret_digest=row.secret_digest,
        created=row.created,
        expires=row.expires,
        last_used=row.last_used,
    )


def _refresh_token(row: RefreshTokenRow, *, used: bool) -> RefreshToken:
    return RefreshToken(row.digest, row.family, row.user, row.workspace, row.expires, used)
