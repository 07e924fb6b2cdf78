"""The auth domain over a real SQLite file, with fast passwords and a clock to turn."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lepton_auth.accounts import Accounts
from lepton_auth.adapters.signing_keys import FileSigningKeys
from lepton_auth.adapters.sql import SqlStore
from lepton_auth.api_keys import KeyRing
from lepton_auth.audit import Auditor
from lepton_auth.first_admin import create_first_admin
from lepton_auth.login import Login
from lepton_auth.records import AuditEvent
from lepton_auth.throttle import Throttle
from lepton_auth.tokens import TokenMint
from lepton_mesh.caller import Caller, Role
from lepton_mesh.database import Database


class Clock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def seconds(self) -> float:
        return self.now.timestamp()

    def turn(self, **by: float) -> None:
        self.now += timedelta(**by)


class FastPasswords:
    """Not slow, and remembers what it was asked to verify."""

    def __init__(self) -> None:
        self.verified: list[str | None] = []

    async def hash(self, password: str) -> str:
        return hashlib.sha256(password.encode()).hexdigest()

    async def verify(self, stored: str | None, password: str) -> bool:
        self.verified.append(stored)
        return stored in (await self.hash(password), "weak:" + password)

    def outdated(self, stored: str) -> bool:
        return stored.startswith("weak:")


@dataclass
class Auth:
    """Everything wired, after ``init``."""

    clock: Clock
    passwords: FastPasswords
    store: SqlStore
    auditor: Auditor
    signing_keys: FileSigningKeys
    accounts: Accounts
    key_ring: KeyRing
    login: Login
    admin_password: str
    admin: Caller

    async def user(self, name: str, role: Role, workspace: str = "default") -> Caller:
        """A new user with a role, as a caller; its password is ``password of <name>``."""
        admin = self.caller("admin", Role.ADMIN, workspace)
        await self.accounts.create_user(
            admin, name, "", f"password of {name}", role, by_password=True
        )
        return self.caller(name, role, workspace)

    @staticmethod
    def caller(name: str, role: Role, workspace: str = "default") -> Caller:
        return Caller("user", f"users/{name}", workspace, role)

    async def events(self, workspace: str = "default") -> Sequence[AuditEvent]:
        return await self.auditor.list(workspace, None, 100)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def auth(tmp_path: Path, clock: Clock) -> AsyncIterator[Auth]:
    database = Database.open(f"sqlite:///{tmp_path / 'auth.db'}", "lepton_auth.migrations")
    store, passwords = SqlStore(database), FastPasswords()
    auditor = Auditor(store, clock, lambda: "f" * 32)
    keys = FileSigningKeys(
        tmp_path / "signing-keys.json",
        clock,
        rotate_after=timedelta(days=30),
        publish_before=timedelta(hours=1),
        longest_token=timedelta(days=7),
    )
    throttle = Throttle(3, 300.0, clock.seconds)
    mint = TokenMint(keys, clock, timedelta(minutes=15))
    password = await create_first_admin(store, passwords, auditor, clock)
    assert password is not None
    yield Auth(
        clock=clock,
        passwords=passwords,
        store=store,
        auditor=auditor,
        signing_keys=keys,
        accounts=Accounts(store, passwords, auditor, clock),
        key_ring=KeyRing(store, auditor, clock),
        login=Login(
            store,
            passwords,
            mint,
            auditor,
            throttle=throttle,
            clock=clock,
            refresh_life=timedelta(hours=12),
        ),
        admin_password=password,
        admin=Auth.caller("admin", Role.ADMIN),
    )
    database.close()
