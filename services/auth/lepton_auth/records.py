"""What the auth service keeps: users, workspaces, API keys, refresh tokens, audit events."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from lepton_auth.errors import InvalidUser
from lepton_mesh.caller import Role
from lepton_mesh.texts import text_fault

MAX_DISPLAY_NAME = 200
"""Characters."""


@dataclass(frozen=True, slots=True)
class User:
    """A person or program that logs in."""

    id: str
    display_name: str
    password_hash: str = field(repr=False)
    disabled: bool
    created: datetime
    revision: int = 1
    """Counts the changes of the record and of its roles."""

    @property
    def name(self) -> str:
        return f"users/{self.id}"

    @property
    def etag(self) -> str:
        return f"{self.revision:x}"


@dataclass(frozen=True, slots=True)
class Workspace:
    """A boundary: every resource belongs to one workspace."""

    id: str
    display_name: str
    created: datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A long-lived credential for programs, of one user in one workspace."""

    id: str
    user: str
    workspace: str
    role: Role
    """The most that its tokens may do; the user's own role bounds them too."""
    display_name: str
    secret_digest: bytes = field(repr=False)
    """SHA-256 of the secret, which has 256 bits of entropy and so needs no slow hash."""
    created: datetime
    expires: datetime | None
    last_used: datetime | None
    """To the minute."""

    @property
    def name(self) -> str:
        return f"apiKeys/{self.id}"


@dataclass(frozen=True, slots=True)
class RefreshToken:
    """One link of a chain of single-use tokens that began with one login."""

    digest: bytes = field(repr=False)
    family: str
    """The same for all that descend from one login; revoked together."""
    user: str
    workspace: str
    expires: datetime
    used: bool = False


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One thing that somebody did or tried."""

    workspace: str
    time: datetime
    subject: str
    action: str
    resource: str
    allowed: bool
    reason: str
    trace_id: str
    id: int = 0
    """Assigned when stored, in rising order."""


def check_display_name(value: str) -> str:
    """``value`` if it is short enough to show; raises InvalidUser."""
    if fault := text_fault(value, MAX_DISPLAY_NAME):
        raise InvalidUser(f"display_name {fault}")
    return value
