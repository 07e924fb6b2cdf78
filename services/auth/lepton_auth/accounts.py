"""Users, workspaces and roles: who may change whom, and what must stay true.

A user is one for the whole installation and has a role per workspace. So an admin may change
another user's password, disable or delete it only as admin of every workspace it belongs to:
the admin of one workspace would otherwise take over accounts of another. An API key makes, changes
and deletes nobody: what it made would go on when the key is deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

from lepton_auth.audit import Attempt, Auditor
from lepton_auth.errors import (
    InvalidRole,
    InvalidUser,
    LastAdmin,
    NotYourself,
    UserExists,
    UserNotFound,
    UserShared,
    WorkspaceExists,
)
from lepton_auth.ports import Passwords, Records, Store
from lepton_auth.records import User, Workspace, check_display_name
from lepton_auth.standing import require_password, require_standing
from lepton_mesh.caller import Caller, Role
from lepton_mesh.errors import PermissionDenied
from lepton_mesh.resources import check_etag
from lepton_mesh.texts import counted

T = TypeVar("T")

FIRST_WORKSPACE = "default"
"""The workspace that an installation begins with."""

MIN_PASSWORD = 12
"""Characters (NIST SP 800-63B section 5.1.1.2 asks for length, not for composition)."""
MAX_PASSWORD = 1024
"""Characters; bounds the work of hashing."""


@dataclass(frozen=True, slots=True)
class UserChange:
    """The new values of the fields that change; None leaves one as it is."""

    display_name: str | None = None
    password: str | None = None
    disabled: bool | None = None


class Accounts:
    """Everything about users, workspaces and roles but logging in."""

    def __init__(
        self,
        store: Store,
        passwords: Passwords,
        auditor: Auditor,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._auditor = auditor
        self._clock = clock

    async def create_user(
        self,
        caller: Caller,
        user_id: str,
        display_name: str,
        password: str,
        role: Role,
        *,
        by_password: bool,
    ) -> User:
        """A new user with ``role`` in the caller's workspace.

        Args:
            by_password: Whether the caller's own token came from a password; so in all methods.
        """
        check_display_name(display_name)
        check_password(password)
        if role is Role.NONE:
            raise InvalidRole("a new user needs a role: viewer, developer or admin")
        attempt = _attempt(caller, "user.create", f"users/{user_id}")
        try:
            require_password(by_password, "create users")
        except PermissionDenied as error:
            await self._auditor.refused(attempt, error.reason)
            raise
        user = User(
            user_id, display_name, await self._passwords.hash(password), False, self._clock()
        )

        def create(records: Records) -> User:
            require_standing(records, caller, Role.ADMIN)
            if not records.users.add(user):
                raise UserExists(
                    f"user '{user_id}' exists; choose another id, or give it a role here",
                    user=user_id,
                )
            records.users.set_role(user_id, caller.workspace, role)
            return user

        return await self._auditor.change(attempt, create)

    async def get_user(self, caller: Caller, user_id: str) -> tuple[User, Role]:
        """The user and its role in the caller's workspace, for an admin or the user itself."""
        if caller.role < Role.ADMIN and caller.subject != f"users/{user_id}":
            raise NotYourself("only an admin may read another user's record")
        return await self._store.read(lambda records: _member(records, caller, user_id))

    async def list_users(
        self, caller: Caller, after: str, limit: int
    ) -> Sequence[tuple[User, Role]]:
        """Members of the caller's workspace with ids above ``after``, in order of id."""
        return await self._store.read(
            lambda records: records.users.members(caller.workspace, after, limit)
        )

    async def update_user(
        self, caller: Caller, user_id: str, etag: str, change: UserChange, *, by_password: bool
    ) -> tuple[User, Role]:
        """Changes a user. A new password or ``disabled`` ends all of its refresh tokens."""
        if change.display_name is not None:
            check_display_name(change.display_name)
        hashed = None
        if change.password is not None:
            check_password(change.password)
        attempt = _attempt(caller, "user.update", f"users/{user_id}")
        itself = caller.subject == f"users/{user_id}"
        try:
            _require_may_change(caller, change, itself, by_password)
        except PermissionDenied as error:
            await self._auditor.refused(attempt, error.reason)
            raise
        # Slow on purpose, so only for who may have it done.
        if change.password is not None:
            hashed = await self._passwords.hash(change.password)

        least = Role.VIEWER if itself and change.disabled is None else Role.ADMIN

        def update(records: Records) -> tuple[User, Role]:
            require_standing(records, caller, least)
            user, role = _member(records, caller, user_id)
            check_etag(etag, user.etag, user.name)
            if not itself:
                _require_admin_everywhere(records, caller, user, by_password)
            if change.disabled:
                _require_other_admins(records, user)
            changed = replace(
                user,
                display_name=_given(change.display_name, user.display_name),
                password_hash=_given(hashed, user.password_hash),
                disabled=_given(change.disabled, user.disabled),
                revision=user.revision + 1,
            )
            records.users.replace(changed)
            if hashed or change.disabled:
                records.refresh_tokens.revoke_user(user_id)
            return changed, role

        return await self._auditor.change(attempt, update)

    async def delete_user(self, caller: Caller, user_id: str, *, by_password: bool) -> None:
        """Removes a user with its keys and roles."""

        def delete(records: Records) -> None:
            require_password(by_password, "delete users")
            require_standing(records, caller, Role.ADMIN)
            user, _ = _member(records, caller, user_id)
            _require_admin_everywhere(records, caller, user, by_password)
            _require_other_admins(records, user)
            records.users.delete(user_id)

        await self._auditor.change(_attempt(caller, "user.delete", f"users/{user_id}"), delete)

    async def set_role(
        self, caller: Caller, user_id: str, role: Role, *, by_password: bool
    ) -> tuple[User, Role]:
        """Gives a user a role in the caller's workspace; ``Role.NONE`` takes it away."""

        def change(records: Records) -> tuple[User, Role]:
            require_password(by_password, "give or take roles")
            require_standing(records, caller, Role.ADMIN)
            user = records.users.get(user_id)
            if user is None:
                raise _no_user(user_id)
            roles = records.users.roles(user_id)
            if role < Role.ADMIN and roles.get(caller.workspace) is Role.ADMIN:
                _require_other_admin(records, caller.workspace, user)
            records.users.set_role(user_id, caller.workspace, role)
            changed = replace(user, revision=user.revision + 1)
            records.users.replace(changed)
            return changed, role

        return await self._auditor.change(_attempt(caller, "role.set", f"users/{user_id}"), change)

    async def create_workspace(
        self, caller: Caller, workspace_id: str, display_name: str, *, by_password: bool
    ) -> tuple[Workspace, Role]:
        """A new workspace with the caller as its admin."""
        check_display_name(display_name)
        workspace = Workspace(workspace_id, display_name, self._clock())

        def create(records: Records) -> tuple[Workspace, Role]:
            require_password(by_password, "create workspaces")
            require_standing(records, caller, Role.ADMIN)
            if not records.workspaces.add(workspace):
                raise WorkspaceExists(
                    f"workspace '{workspace_id}' exists; choose another id", workspace=workspace_id
                )
            user_id = caller.subject.removeprefix("users/")
            records.users.set_role(user_id, workspace_id, Role.ADMIN)
            return workspace, Role.ADMIN

        return await self._auditor.change(
            _attempt(caller, "workspace.create", f"workspaces/{workspace_id}"), create
        )

    async def list_workspaces(
        self, caller: Caller, after: str, limit: int
    ) -> Sequence[tuple[Workspace, Role]]:
        """The caller's workspaces with ids above ``after``, in order of id."""
        user_id = caller.subject.removeprefix("users/")
        return await self._store.read(
            lambda records: records.workspaces.of_user(user_id, after, limit)
        )


def check_password(password: str) -> None:
    """Raises InvalidUser for a password too short to hold or too long to hash."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InvalidUser(
            f"the password has {counted(len(password), 'character')}; use {MIN_PASSWORD} to "
            f"{MAX_PASSWORD}"
        )


def workspaces_to_tell(roles: Iterable[str]) -> tuple[str, ...]:
    """Whose admins hear of a login with ``roles``; those of the first workspace if it has none."""
    return tuple(sorted(roles)) or (FIRST_WORKSPACE,)


def _attempt(caller: Caller, action: str, resource: str) -> Attempt:
    return Attempt(caller.subject, (caller.workspace,), action, resource)


def _require_may_change(
    caller: Caller, change: UserChange, itself: bool, by_password: bool
) -> None:
    """What the caller alone decides, before anything is looked up."""
    if not itself and caller.role < Role.ADMIN:
        raise NotYourself("only an admin may change another user's record")
    if caller.role < Role.ADMIN and change.disabled is not None:
        raise NotYourself("only an admin may enable or disable a user")
    if change.password is not None or change.disabled is not None:
        require_password(by_password, "change passwords or disable users")


def _member(records: Records, caller: Caller, user_id: str) -> tuple[User, Role]:
    """The user as the caller's workspace knows it; one of elsewhere is not found."""
    user = records.users.get(user_id)
    role = records.users.roles(user_id).get(caller.workspace, Role.NONE)
    if user is None or (role is Role.NONE and caller.subject != user.name):
        raise _no_user(user_id)
    return user, role


def _no_user(user_id: str) -> UserNotFound:
    return UserNotFound(f"user '{user_id}' is not in this workspace", user=user_id)


def _require_admin_everywhere(
    records: Records, caller: Caller, user: User, by_password: bool
) -> None:
    # A key carries its user's role in one workspace only.
    own = records.users.roles(caller.subject.removeprefix("users/")) if by_password else {}
    for workspace in records.users.roles(user.id):
        if workspace != caller.workspace and own.get(workspace) is not Role.ADMIN:
            raise UserShared(
                f"'{user.name}' also belongs to a workspace where you are not admin, or not with "
                "an API key; take its role away here instead",
                user=user.id,
            )


def _require_other_admins(records: Records, user: User) -> None:
    for workspace, role in sorted(records.users.roles(user.id).items()):
        if role is Role.ADMIN:
            _require_other_admin(records, workspace, user)


def _require_other_admin(records: Records, workspace: str, user: User) -> None:
    if not records.users.other_admins(workspace, user.id):
        raise LastAdmin(
            f"'{user.name}' is the last admin of workspace '{workspace}'; make another user "
            "admin first",
            user=user.id,
            workspace=workspace,
        )


def _given(value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value
