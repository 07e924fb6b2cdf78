"""Users, workspaces and roles: who may change whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from lepton_auth.accounts import UserChange
from lepton_auth.errors import (
    CredentialInvalid,
    InvalidRole,
    InvalidUser,
    LastAdmin,
    NotYourself,
    PasswordLoginRequired,
    UserExists,
    UserNotFound,
    UserShared,
    WorkspaceExists,
)
from lepton_mesh.authorization import RoleTooLow
from lepton_mesh.caller import Role
from lepton_mesh.errors import PermissionDenied
from lepton_mesh.resources import EtagMismatch

if TYPE_CHECKING:
    from .conftest import Auth


async def test_users_are_created_once(auth: Auth) -> None:
    """With a password long enough and a role."""
    await auth.user("bob", Role.VIEWER)
    with pytest.raises(UserExists):
        await auth.user("bob", Role.VIEWER)
    for count, told in ((1, "1 character;"), (11, "11 characters;")):
        with pytest.raises(InvalidUser, match=told):
            await auth.accounts.create_user(
                auth.admin, "eve", "", "x" * count, Role.VIEWER, by_password=True
            )
    with pytest.raises(InvalidUser, match="more than 200 characters; shorten it"):
        await auth.accounts.create_user(
            auth.admin, "eve", "x" * 201, "x" * 12, Role.VIEWER, by_password=True
        )
    with pytest.raises(InvalidRole):
        await auth.accounts.create_user(
            auth.admin, "eve", "", "x" * 12, Role.NONE, by_password=True
        )


async def test_users_read_and_change_only_themselves(auth: Auth) -> None:
    """Without the admin's role: own name and password, nothing else, nobody else."""
    bob = await auth.user("bob", Role.DEVELOPER)
    accounts = auth.accounts
    user, role = await accounts.get_user(bob, "bob")
    assert (user.id, role) == ("bob", Role.DEVELOPER)
    changed, _ = await accounts.update_user(
        bob, "bob", user.etag, UserChange("Bob", "a new password"), by_password=True
    )
    assert changed.display_name == "Bob"
    assert changed.etag != user.etag
    with pytest.raises(NotYourself):
        await accounts.get_user(bob, "admin")
    with pytest.raises(NotYourself):
        await accounts.update_user(bob, "admin", "", UserChange("x"), by_password=True)
    with pytest.raises(NotYourself):
        await accounts.update_user(bob, "bob", "", UserChange(disabled=False), by_password=True)
    with pytest.raises(PasswordLoginRequired):
        await accounts.update_user(
            bob, "bob", "", UserChange(password="a new password"), by_password=False
        )


@pytest.mark.parametrize(
    ("name", "user", "by_password", "reason"),
    [
        ("bob", "admin", True, "NOT_YOURSELF"),
        ("bob", "bob", False, "PASSWORD_LOGIN_REQUIRED"),
        ("admin", "bob", False, "PASSWORD_LOGIN_REQUIRED"),
    ],
)
async def test_no_password_is_hashed_for_who_may_not_set_it(
    auth: Auth,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    user: str,
    by_password: bool,
    reason: str,
) -> None:
    """A hash takes half a core for a while; the refusal is in the audit all the same."""
    bob = await auth.user("bob", Role.DEVELOPER)

    async def hashed(password: str) -> str:
        raise AssertionError("hashed before the caller was checked")

    monkeypatch.setattr(auth.passwords, "hash", hashed)
    with pytest.raises(PermissionDenied) as caught:
        await auth.accounts.update_user(
            bob if name == "bob" else auth.admin,
            user,
            "",
            UserChange(password="a new password"),
            by_password=by_password,
        )
    assert caught.value.reason == reason
    event = (await auth.events())[0]
    assert (event.action, event.allowed, event.reason) == ("user.update", False, reason)


async def test_a_key_does_not_reach_beyond_its_workspace(auth: Auth) -> None:
    """An admin's key changes no password, disables and deletes nobody, nor touches shared users.

    Whoever found it would otherwise log in with the new password, in every workspace.
    """
    accounts, admin = auth.accounts, auth.admin
    await auth.user("bob", Role.VIEWER)
    await accounts.create_workspace(admin, "lab", "", by_password=True)
    for user in ("admin", "bob"):
        for change in (UserChange(password="a new password"), UserChange(disabled=False)):
            with pytest.raises(PasswordLoginRequired, match="lepton login"):
                await accounts.update_user(admin, user, "", change, by_password=False)
        with pytest.raises(PasswordLoginRequired, match="lepton login"):
            await accounts.delete_user(admin, user, by_password=False)
    await accounts.update_user(admin, "bob", "", UserChange("Bob"), by_password=False)
    await accounts.set_role(
        auth.caller("admin", Role.ADMIN, "lab"), "bob", Role.VIEWER, by_password=True
    )
    with pytest.raises(UserShared):
        await accounts.update_user(admin, "bob", "", UserChange("Rob"), by_password=False)


async def test_an_old_etag_is_refused(auth: Auth) -> None:
    """Of two changes from one reading, the second must read again."""
    user, _ = await auth.accounts.get_user(auth.admin, "admin")
    await auth.accounts.update_user(
        auth.admin, "admin", user.etag, UserChange("One"), by_password=True
    )
    with pytest.raises(EtagMismatch):
        await auth.accounts.update_user(
            auth.admin, "admin", user.etag, UserChange("Two"), by_password=True
        )


async def test_the_last_admin_stays(auth: Auth) -> None:
    """It cannot be demoted, removed, disabled or deleted; with a second one it can."""
    accounts, admin = auth.accounts, auth.admin
    await auth.user("bob", Role.ADMIN)
    await accounts.update_user(admin, "bob", "", UserChange(disabled=True), by_password=True)
    for role in (Role.NONE, Role.DEVELOPER):
        with pytest.raises(LastAdmin):
            await accounts.set_role(admin, "admin", role, by_password=True)
    with pytest.raises(LastAdmin):
        await accounts.update_user(admin, "admin", "", UserChange(disabled=True), by_password=True)
    with pytest.raises(LastAdmin):
        await accounts.delete_user(admin, "admin", by_password=True)
    assert (await auth.events())[0].reason == "LAST_ADMIN"
    await accounts.update_user(admin, "bob", "", UserChange(disabled=False), by_password=True)
    await accounts.delete_user(admin, "admin", by_password=True)


async def test_one_workspaces_admin_does_not_own_the_other_s_users(auth: Auth) -> None:
    """Who also belongs elsewhere cannot be taken over; its role here can be taken away."""
    await auth.accounts.create_workspace(auth.admin, "lab", "", by_password=True)
    await auth.user("eve", Role.ADMIN)
    eve = auth.caller("eve", Role.ADMIN)
    await auth.user("bob", Role.DEVELOPER, "lab")
    await auth.accounts.set_role(eve, "bob", Role.VIEWER, by_password=True)
    for change in (UserChange(password="taken over now"), UserChange(disabled=True)):
        with pytest.raises(UserShared):
            await auth.accounts.update_user(eve, "bob", "", change, by_password=True)
    with pytest.raises(UserShared):
        await auth.accounts.delete_user(eve, "bob", by_password=True)
    # The first admin is admin of both.
    await auth.accounts.update_user(auth.admin, "bob", "", UserChange("Bob"), by_password=True)
    await auth.accounts.set_role(eve, "bob", Role.NONE, by_password=True)
    with pytest.raises(UserNotFound):
        await auth.accounts.get_user(eve, "bob")


async def test_members_of_elsewhere_are_not_found(auth: Auth) -> None:
    """Another workspace's users are neither read nor changed nor deleted nor listed."""
    await auth.accounts.create_workspace(auth.admin, "lab", "", by_password=True)
    await auth.user("bob", Role.ADMIN, "lab")
    with pytest.raises(UserNotFound):
        await auth.accounts.get_user(auth.admin, "bob")
    with pytest.raises(UserNotFound):
        await auth.accounts.delete_user(auth.admin, "bob", by_password=True)
    members = await auth.accounts.list_users(auth.admin, "", 10)
    assert [user.id for user, _ in members] == ["admin"]


async def test_a_workspace_belongs_to_who_made_it(auth: Auth) -> None:
    """Its maker is its admin; its id is taken from then on."""
    await auth.accounts.create_workspace(auth.admin, "lab", "Lab", by_password=True)
    own = await auth.accounts.list_workspaces(auth.admin, "", 10)
    assert [(one.id, role) for one, role in own] == [("default", Role.ADMIN), ("lab", Role.ADMIN)]
    with pytest.raises(WorkspaceExists):
        await auth.accounts.create_workspace(auth.admin, "lab", "", by_password=True)


async def test_every_change_is_audited(auth: Auth) -> None:
    """What was done and what was refused, by whom, on what."""
    await auth.user("bob", Role.VIEWER)
    await auth.accounts.set_role(auth.admin, "bob", Role.DEVELOPER, by_password=True)
    with pytest.raises(UserNotFound):
        await auth.accounts.set_role(auth.admin, "eve", Role.DEVELOPER, by_password=True)
    await auth.accounts.delete_user(auth.admin, "bob", by_password=True)
    seen = [
        (event.subject, event.action, event.resource, event.allowed, event.reason)
        for event in await auth.events()
    ]
    assert seen == [
        ("users/admin", "user.delete", "users/bob", True, ""),
        ("users/admin", "role.set", "users/eve", False, "USER_NOT_FOUND"),
        ("users/admin", "role.set", "users/bob", True, ""),
        ("users/admin", "user.create", "users/bob", True, ""),
        ("", "user.create", "users/admin", True, ""),
    ]


@pytest.mark.parametrize("disabled", [True, False])
async def test_an_admin_who_was_turned_out_turns_nothing_back(auth: Auth, disabled: bool) -> None:
    """Its token still holds for minutes: it must not make itself or anybody an admin with it."""
    accounts, key_ring = auth.accounts, auth.key_ring
    bob = await auth.user("bob", Role.ADMIN)
    key, _ = await key_ring.create(auth.admin, "", Role.NONE, None, by_password=True)
    if disabled:
        change = UserChange(disabled=True)
        await accounts.update_user(auth.admin, "bob", "", change, by_password=True)
    else:
        await accounts.set_role(auth.admin, "bob", Role.VIEWER, by_password=True)
    refused = CredentialInvalid if disabled else RoleTooLow
    enabled = UserChange(disabled=False)
    for attempt in (
        lambda: accounts.update_user(bob, "bob", "", enabled, by_password=True),
        lambda: accounts.set_role(bob, "bob", Role.ADMIN, by_password=True),
        lambda: accounts.create_user(
            bob, "eve", "", "a long password", Role.ADMIN, by_password=True
        ),
        lambda: accounts.delete_user(bob, "admin", by_password=True),
        lambda: accounts.create_workspace(bob, "lab", "", by_password=True),
        lambda: key_ring.create(bob, "", Role.ADMIN, None, by_password=True),
        lambda: key_ring.delete(bob, key.id),
    ):
        with pytest.raises(refused):
            await attempt()
    name = UserChange("Bob", "a long password")
    if disabled:
        with pytest.raises(CredentialInvalid):
            await accounts.update_user(bob, "bob", "", name, by_password=True)
    else:
        await accounts.update_user(bob, "bob", "", name, by_password=True)


async def test_a_key_makes_nothing_that_outlives_it(auth: Auth) -> None:
    """No user, no role, no workspace: whoever found it would stay when it is deleted."""
    accounts, admin = auth.accounts, auth.admin
    await auth.user("bob", Role.VIEWER)
    for attempt in (
        lambda: accounts.create_user(
            admin, "eve", "", "a long password", Role.VIEWER, by_password=False
        ),
        lambda: accounts.set_role(admin, "bob", Role.ADMIN, by_password=False),
        lambda: accounts.create_workspace(admin, "lab", "", by_password=False),
    ):
        with pytest.raises(PasswordLoginRequired, match="lepton login"):
            await attempt()
        assert (await auth.events())[0].reason == "PASSWORD_LOGIN_REQUIRED"
