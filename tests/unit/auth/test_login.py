"""Credentials for tokens: what holds, what does not, and what is remembered of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import jwt
import pytest

from lepton_auth.accounts import UserChange
from lepton_auth.errors import (
    CredentialInvalid,
    TooManyFailures,
    WorkspaceDenied,
    WorkspaceRequired,
)
from lepton_auth.first_admin import create_first_admin
from lepton_mesh.caller import Role

if TYPE_CHECKING:
    from lepton_auth.ports import Records

    from .conftest import Auth


def _claims(token: str) -> dict[str, Any]:
    return jwt.decode(token, options={"verify_signature": False})


async def test_the_first_admin_logs_in(auth: Auth) -> None:
    """With the printed password, into the only workspace, as admin, for 15 minutes."""
    grant = await auth.login.with_password("admin", auth.admin_password, "")
    assert (grant.workspace, grant.role) == ("default", Role.ADMIN)
    assert grant.expires == auth.clock.now + timedelta(minutes=15)
    claims = _claims(grant.access_token)
    assert {key: claims[key] for key in ("sub", "kind", "ws", "role", "amr")} == {
        "sub": "users/admin",
        "kind": "user",
        "ws": "default",
        "role": "admin",
        "amr": ["pwd"],
    }
    newest = (await auth.events())[0]
    assert (newest.subject, newest.action, newest.allowed) == ("users/admin", "token.issue", True)
    assert newest.trace_id == "f" * 32


async def test_a_second_init_changes_nothing(auth: Auth) -> None:
    """Idempotent: no new password, the old one still holds."""
    again = await create_first_admin(auth.store, auth.passwords, auth.auditor, auth.clock)
    assert again is None
    await auth.login.with_password("admin", auth.admin_password, "")


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("admin", "wrong password"),
        ("nobody", "wrong password"),
        ("admin", ""),
        ("", ""),
        ("No Id", "x"),
        ("admin", "x" * 5000),
    ],
)
async def test_wrong_passwords_fail_alike(auth: Auth, user: str, password: str) -> None:
    """One error for all, whatever was wrong."""
    with pytest.raises(CredentialInvalid) as caught:
        await auth.login.with_password(user, password, "")
    assert caught.value.reason == "CREDENTIAL_INVALID"
    assert caught.value.metadata == {}


async def test_unknown_users_cost_a_hash_too(auth: Auth) -> None:
    """The time of the answer does not tell who exists."""
    with pytest.raises(CredentialInvalid):
        await auth.login.with_password("nobody", "wrong password", "")
    assert auth.passwords.verified == [None]


async def test_refused_logins_are_audited(auth: Auth) -> None:
    """Those of users that exist: invented names would fill the disk."""
    for name in ("admin", "nobody"):
        with pytest.raises(CredentialInvalid):
            await auth.login.with_password(name, "wrong password", "")
    newest, first = await auth.events()
    assert (newest.subject, newest.resource) == ("users/admin", "users/admin")
    assert newest.reason == "CREDENTIAL_INVALID"
    assert first.action == "user.create"


async def test_old_audit_events_are_forgotten(auth: Auth) -> None:
    """However many; newer ones stay."""
    old = (await auth.events())[0]

    def add(records: Records) -> None:
        for _ in range(1500):
            records.audit.add(old)

    await auth.store.write(add)
    auth.clock.turn(days=1)
    await auth.user("bob", Role.VIEWER)
    assert await auth.auditor.forget(auth.clock.now) == 1501
    assert [event.resource for event in await auth.events()] == ["users/bob"]


@pytest.mark.parametrize("name", ["admin", "nobody"])
async def test_guessing_is_throttled(auth: Auth, name: str) -> None:
    """After three failures even the right password waits; then the window ends."""
    for _ in range(3):
        with pytest.raises(CredentialInvalid):
            await auth.login.with_password(name, "wrong password", "")
    with pytest.raises(TooManyFailures) as caught:
        await auth.login.with_password(name, auth.admin_password, "")
    assert caught.value.metadata["retry_after_seconds"] == "300"
    auth.clock.turn(seconds=300)
    if name == "admin":
        await auth.login.with_password(name, auth.admin_password, "")


async def test_a_success_clears_the_failures(auth: Auth) -> None:
    """Failures count in a row only."""
    for _ in range(3):
        for _ in range(2):
            with pytest.raises(CredentialInvalid):
                await auth.login.with_password("admin", "wrong password", "")
        await auth.login.with_password("admin", auth.admin_password, "")


async def test_disabled_users_get_nothing(auth: Auth) -> None:
    """Neither by password nor by key nor by refresh token."""
    bob = await auth.user("bob", Role.VIEWER)
    grant = await auth.login.with_password("bob", "password of bob", "")
    _, secret = await auth.key_ring.create(bob, "", Role.NONE, None, by_password=True)
    await auth.accounts.update_user(
        auth.admin, "bob", "", UserChange(disabled=True), by_password=True
    )
    with pytest.raises(CredentialInvalid):
        await auth.login.with_password("bob", "password of bob", "")
    with pytest.raises(CredentialInvalid):
        await auth.login.with_api_key(secret, "")
    with pytest.raises(CredentialInvalid):
        await auth.login.with_refresh_token(grant.refresh_token, "")


async def test_workspaces_are_chosen_or_required(auth: Auth) -> None:
    """The only one is the default; of several one must be named; others are refused."""
    await auth.accounts.create_workspace(auth.admin, "lab", "", by_password=True)
    with pytest.raises(WorkspaceRequired, match="default, lab"):
        await auth.login.with_password("admin", auth.admin_password, "")
    grant = await auth.login.with_password("admin", auth.admin_password, "lab")
    assert grant.workspace == "lab"
    with pytest.raises(WorkspaceDenied):
        await auth.login.with_password("admin", auth.admin_password, "elsewhere")
    switched = await auth.login.with_refresh_token(grant.refresh_token, "default")
    assert switched.workspace == "default"


async def test_outdated_hashes_are_renewed_at_login(auth: Auth) -> None:
    """Stronger parameters reach users as they log in."""
    await auth.user("bob", Role.VIEWER)
    bob = await auth.store.read(lambda records: records.users.get("bob"))
    assert bob is not None
    weak = replace(bob, password_hash="weak:password of bob")
    await auth.store.write(lambda records: records.users.replace(weak))
    await auth.login.with_password("bob", "password of bob", "")
    assert await auth.store.read(lambda records: records.users.get("bob")) == bob


async def test_refresh_tokens_are_single_use(auth: Auth) -> None:
    """The second use revokes the whole family, and says so in the audit only."""
    first = await auth.login.with_password("admin", auth.admin_password, "")
    second = await auth.login.with_refresh_token(first.refresh_token, "")
    assert second.refresh_token != first.refresh_token
    with pytest.raises(CredentialInvalid):
        await auth.login.with_refresh_token(first.refresh_token, "")
    assert (await auth.events())[0].reason == "REFRESH_TOKEN_REUSED"
    with pytest.raises(CredentialInvalid):
        await auth.login.with_refresh_token(second.refresh_token, "")


async def test_refresh_tokens_run_out(auth: Auth) -> None:
    """After twelve hours; and are forgotten then."""
    grant = await auth.login.with_password("admin", auth.admin_password, "")
    auth.clock.turn(hours=12, seconds=1)
    with pytest.raises(CredentialInvalid):
        await auth.login.with_refresh_token(grant.refresh_token, "")
    assert await auth.login.forget_expired() == 1


async def test_a_new_password_ends_sessions(auth: Auth) -> None:
    """Refresh tokens from before do not hold any more."""
    grant = await auth.login.with_password("admin", auth.admin_password, "")
    await auth.accounts.update_user(
        auth.admin, "admin", "", UserChange(password="another password"), by_password=True
    )
    with pytest.raises(CredentialInvalid):
        await auth.login.with_refresh_token(grant.refresh_token, "")
    with pytest.raises(CredentialInvalid):
        await auth.login.with_password("admin", auth.admin_password, "")
    await auth.login.with_password("admin", "another password", "")


async def test_a_password_changed_while_it_was_checked(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one was right when it was asked about, and is not any more: no token."""
    verify = auth.passwords.verify

    async def slowly(stored: str | None, password: str) -> bool:
        right = await verify(stored, password)
        change = UserChange(password="another password")
        await auth.accounts.update_user(auth.admin, "admin", "", change, by_password=True)
        return right

    monkeypatch.setattr(auth.passwords, "verify", slowly)
    with pytest.raises(CredentialInvalid):
        await auth.login.with_password("admin", auth.admin_password, "")


async def test_roles_follow_the_user_at_refresh(auth: Auth) -> None:
    """A demoted user's next token has the lower role; a removed one's does not come."""
    await auth.user("bob", Role.DEVELOPER)
    grant = await auth.login.with_password("bob", "password of bob", "")
    await auth.accounts.set_role(auth.admin, "bob", Role.VIEWER, by_password=True)
    grant = await auth.login.with_refresh_token(grant.refresh_token, "")
    assert grant.role is Role.VIEWER
    await auth.accounts.set_role(auth.admin, "bob", Role.NONE, by_password=True)
    with pytest.raises(WorkspaceDenied):
        await auth.login.with_refresh_token(grant.refresh_token, "")
