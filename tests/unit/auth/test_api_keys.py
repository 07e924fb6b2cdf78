"""API keys: what they look like, what they may do, when they end."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

import jwt
import pytest

from lepton_auth.errors import (
    ApiKeyNotFound,
    CredentialInvalid,
    InvalidApiKey,
    PasswordLoginRequired,
    RoleAboveOwn,
    TooManyFailures,
    WorkspaceDenied,
)
from lepton_mesh.caller import Role
from lepton_mesh.disk import disk_full

if TYPE_CHECKING:
    from .conftest import Auth


async def test_a_key_becomes_a_token(auth: Auth) -> None:
    """With the key's role and workspace, and no refresh token."""
    key, secret = await auth.key_ring.create(
        auth.admin, "ci", Role.DEVELOPER, None, by_password=True
    )
    assert re.fullmatch(r"lpk_[0-9a-f]{16}_[\w-]{43}", secret)
    assert secret.rpartition("_")[2].encode() not in key.secret_digest
    grant = await auth.login.with_api_key(secret, "")
    assert (grant.role, grant.workspace, grant.refresh_token) == (Role.DEVELOPER, "default", "")
    claims = jwt.decode(grant.access_token, options={"verify_signature": False})
    assert claims["amr"] == ["key"]


async def test_a_key_is_good_on_a_full_disk(
    auth: Auth, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who is to make room can look around; that the key was used is in the log alone."""
    key, secret = await auth.key_ring.create(
        auth.admin, "ci", Role.DEVELOPER, None, by_password=True
    )

    async def full(_: object) -> None:
        raise disk_full("auth.db")

    monkeypatch.setattr(auth.store, "write", full)
    assert (await auth.login.with_api_key(secret, "")).role is Role.DEVELOPER
    (record,) = caplog.records
    assert (record.msg, record.__dict__["key"]) == ("use of an API key not recorded", key.name)


async def test_a_key_is_capped_by_its_user(auth: Auth) -> None:
    """A demoted user's keys are demoted too; a removed user's keys fail."""
    bob = await auth.user("bob", Role.DEVELOPER)
    _, secret = await auth.key_ring.create(bob, "", Role.NONE, None, by_password=True)
    assert (await auth.login.with_api_key(secret, "")).role is Role.DEVELOPER
    await auth.accounts.set_role(auth.admin, "bob", Role.VIEWER, by_password=True)
    assert (await auth.login.with_api_key(secret, "")).role is Role.VIEWER
    await auth.accounts.set_role(auth.admin, "bob", Role.NONE, by_password=True)
    with pytest.raises(CredentialInvalid):
        await auth.login.with_api_key(secret, "")


async def test_a_key_ends(auth: Auth) -> None:
    """At its time, and at once when deleted."""
    soon = auth.clock.now + timedelta(hours=1)
    _, brief = await auth.key_ring.create(auth.admin, "", Role.NONE, soon, by_password=True)
    key, other = await auth.key_ring.create(auth.admin, "", Role.NONE, None, by_password=True)
    auth.clock.turn(hours=1)
    with pytest.raises(CredentialInvalid):
        await auth.login.with_api_key(brief, "")
    await auth.login.with_api_key(other, "")
    await auth.key_ring.delete(auth.admin, key.id)
    with pytest.raises(CredentialInvalid):
        await auth.login.with_api_key(other, "")


async def test_use_is_noted_to_the_minute(auth: Auth) -> None:
    """One write and one event a minute, however often the key is used."""
    _, secret = await auth.key_ring.create(auth.admin, "", Role.NONE, None, by_password=True)
    before = len(await auth.events())
    for _ in range(3):
        await auth.login.with_api_key(secret, "")
        auth.clock.turn(seconds=10)
    (key,) = await auth.key_ring.list(auth.admin, None, 5)
    assert key.last_used == auth.clock.now.replace(second=0)
    assert len(await auth.events()) == before + 1
    auth.clock.turn(minutes=1)
    await auth.login.with_api_key(secret, "")
    assert len(await auth.events()) == before + 2


async def test_wrong_secrets_do_not_lock_a_key(auth: Auth) -> None:
    """They are throttled by themselves; the right secret always gets in."""
    _, secret = await auth.key_ring.create(auth.admin, "", Role.NONE, None, by_password=True)
    wrong = secret[:-43] + "A" * 43
    for _ in range(3):
        with pytest.raises(CredentialInvalid):
            await auth.login.with_api_key(wrong, "")
    with pytest.raises(TooManyFailures):
        await auth.login.with_api_key(wrong, "")
    await auth.login.with_api_key(secret, "")


@pytest.mark.parametrize("text", ["", "lpk_", "lpk_0123456789abcdef_" + "A" * 43, "x" * 10_000])
async def test_what_is_no_key_fails_alike(auth: Auth, text: str) -> None:
    """Malformed and unknown keys are not told apart."""
    with pytest.raises(CredentialInvalid):
        await auth.login.with_api_key(text, "")


async def test_a_key_works_in_its_workspace_only(auth: Auth) -> None:
    """Naming another is refused, whatever the user's roles."""
    _, secret = await auth.key_ring.create(auth.admin, "", Role.NONE, None, by_password=True)
    await auth.accounts.create_workspace(auth.admin, "lab", "", by_password=True)
    assert (await auth.login.with_api_key(secret, "default")).workspace == "default"
    with pytest.raises(WorkspaceDenied):
        await auth.login.with_api_key(secret, "lab")


async def test_what_a_key_must_not_be(auth: Auth) -> None:
    """More than its maker, already over, or the child of another key."""
    bob = await auth.user("bob", Role.VIEWER)
    with pytest.raises(RoleAboveOwn):
        await auth.key_ring.create(bob, "", Role.ADMIN, None, by_password=True)
    with pytest.raises(InvalidApiKey):
        await auth.key_ring.create(bob, "", Role.NONE, auth.clock.now, by_password=True)
    with pytest.raises(PasswordLoginRequired):
        await auth.key_ring.create(bob, "", Role.NONE, None, by_password=False)
    assert [event.reason for event in (await auth.events())[:2]] == [
        "PASSWORD_LOGIN_REQUIRED",
        "ROLE_ABOVE_OWN",
    ]


async def test_who_may_delete_a_key(auth: Auth) -> None:
    """Its user, and an admin of its workspace; to others it does not exist."""
    bob, eve = await auth.user("bob", Role.VIEWER), await auth.user("eve", Role.DEVELOPER)
    await auth.accounts.create_workspace(auth.admin, "lab", "", by_password=True)
    key, _ = await auth.key_ring.create(bob, "", Role.NONE, None, by_password=True)
    for stranger in (eve, auth.caller("admin", Role.ADMIN, "lab")):
        with pytest.raises(ApiKeyNotFound):
            await auth.key_ring.delete(stranger, key.id)
    await auth.key_ring.delete(auth.admin, key.id)
    assert await auth.key_ring.list(bob, None, 5) == []
