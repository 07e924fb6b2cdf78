"""What the domain asks of the world: records in transactions, slow hashes, signatures.

The records are synchronous: a function over them runs as one transaction in a worker thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from lepton_auth.certificate_records import CertificateRecord, JoinGrant
from lepton_auth.records import ApiKey, AuditEvent, RefreshToken, User, Workspace
from lepton_mesh.caller import Role
from lepton_mesh.claims import Claims

T = TypeVar("T")


class Users(Protocol):
    """Users, and their roles by workspace."""

    def get(self, user: str) -> User | None:
        """The user; in a transaction that writes, held until it ends."""

    def add(self, user: User) -> bool:
        """False if the id is taken; nothing changes then."""

    def replace(self, user: User) -> None:
        """Stores ``user`` in place of the one with its id."""

    def delete(self, user: str) -> None:
        """Removes the user, its roles, keys and refresh tokens."""

    def members(self, workspace: str, after: str, limit: int) -> Sequence[tuple[User, Role]]:
        """Members of ``workspace`` with ids above ``after``, in order of id."""

    def roles(self, user: str) -> Mapping[str, Role]:
        """The user's role in each of its workspaces."""

    def standing(self, user: str, workspace: str) -> Role | None:
        """The user's role in ``workspace``; None for one that is disabled or not there."""

    def set_role(self, user: str, workspace: str, role: Role) -> None:
        """Gives the role; ``Role.NONE`` takes it away."""

    def other_admins(self, workspace: str, user: str) -> int:
        """How many enabled admins ``workspace`` has besides ``user``.

        Holds the workspace until the transaction ends, so that two callers cannot each count
        the other and leave none.
        """


class Workspaces(Protocol):
    """The boundaries that resources belong to."""

    def exists(self, workspace: str) -> bool: ...

    def add(self, workspace: Workspace) -> bool:
        """False if the id is taken; nothing changes then."""

    def of_user(self, user: str, after: str, limit: int) -> Sequence[tuple[Workspace, Role]]:
        """Workspaces in which ``user`` has a role, with ids above ``after``, in order of id."""


class ApiKeys(Protocol):
    """API keys without their secrets."""

    def get(self, key: str) -> ApiKey | None: ...

    def add(self, key: ApiKey) -> None: ...

    def of_user(
        self, workspace: str, user: str, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[ApiKey]:
        """The user's keys created before ``before`` (time, id), newest first."""

    def touch(self, key: str, used: datetime) -> None:
        """Notes when the key was last used."""

    def delete(self, key: str) -> None: ...


class RefreshTokens(Protocol):
    """Refresh tokens by digest."""

    def add(self, token: RefreshToken) -> None: ...

    def get(self, digest: bytes) -> RefreshToken | None: ...

    def use(self, digest: bytes) -> RefreshToken | None:
        """Marks the token as used and returns it as it was before; None if unknown.

        Of two callers at once, one sees it unused.
        """

    def revoke_family(self, family: str) -> None: ...

    def revoke_user(self, user: str) -> None: ...

    def delete_expired(self, now: datetime) -> int:
        """Forgets those that ended before ``now``; returns how many."""


class Audit(Protocol):
    """What was done and tried; grows, and loses its oldest events with time."""

    def add(self, event: AuditEvent) -> None: ...

    def of_workspace(self, workspace: str, before: int | None, limit: int) -> Sequence[AuditEvent]:
        """Events with ids below ``before``, newest first."""

    def delete_oldest(self, before: datetime, limit: int) -> int:
        """Deletes, of the ``limit`` oldest events, those from before that time; how many."""


class JoinGrants(Protocol):
    """Join tokens by digest."""

    def get(self, digest: bytes) -> JoinGrant | None: ...

    def add(self, grant: JoinGrant) -> None: ...

    def use(self, digest: bytes, now: datetime) -> JoinGrant | None:
        """Marks the grant as used and returns it as it was before; None if unknown.

        Of two callers at once, one sees it unused.
        """

    def delete_expired(self, now: datetime) -> None:
        """Forgets those that ended before ``now``."""


class Certificates(Protocol):
    """Certificates that were issued and have not ended, by serial number (lower-case hex)."""

    def get(self, serial: str) -> CertificateRecord | None: ...

    def add(self, record: CertificateRecord) -> None: ...

    def revoke(self, family: str, now: datetime) -> None:
        """Marks all of a family as revoked; keeps the times of earlier revocations."""

    def revoked(self, now: datetime) -> Sequence[CertificateRecord]:
        """Those revoked that end after ``now``, the oldest revocation first."""

    def renew_until(self, spiffe_id: str, until: datetime) -> None:
        """Puts off to ``until`` the end of renewal of those of ``spiffe_id`` that end before it."""

    def delete_expired(self, now: datetime) -> None:
        """Forgets those that ended before ``now``."""


class Records(Protocol):
    """Every aggregate, in one transaction."""

    @property
    def users(self) -> Users: ...
    @property
    def workspaces(self) -> Workspaces: ...
    @property
    def api_keys(self) -> ApiKeys: ...
    @property
    def refresh_tokens(self) -> RefreshTokens: ...
    @property
    def audit(self) -> Audit: ...
    @property
    def join_grants(self) -> JoinGrants: ...
    @property
    def certificates(self) -> Certificates: ...


class Store(Protocol):
    """Transactions. A function given to it may run twice and must have no other effect."""

    async def read(self, function: Callable[[Records], T]) -> T: ...

    async def write(self, function: Callable[[Records], T]) -> T:
        """Keeps what ``function`` changed when it returns, and nothing if it raises."""


class Passwords(Protocol):
    """Slow password hashes, computed off the event loop."""

    async def hash(self, password: str) -> str:
        """Raises LoginBusy if too many wait."""

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether ``password`` is the stored one; as slow for None, which never is.

        Raises LoginBusy if too many wait.
        """

    def outdated(self, stored: str) -> bool:
        """Whether ``stored`` was made with weaker parameters than today's."""


class Signer(Protocol):
    """Signs access tokens with the current key."""

    def sign(self, claims: Claims, *, issued: datetime, method: str = "") -> str:
        """The JWT; ``method`` is how the user logged in, the ``amr`` claim."""
