"""The ports of the auth service's records, on every database."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Barrier, BrokenBarrierError

import pytest

from lepton_auth.adapters.sql import SqlStore
from lepton_auth.models import Base
from lepton_auth.ports import Records
from lepton_auth.records import ApiKey, AuditEvent, RefreshToken, User, Workspace
from lepton_mesh.caller import Role
from lepton_mesh.database import Database, differences

NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def store(database: Database) -> SqlStore:
    return SqlStore(database)


def _user(name: str, **changes: object) -> User:
    user = User(id=name, display_name="", password_hash="h", disabled=False, created=NOW)
    return replace(user, **changes)


def _key(name: str, created: datetime = NOW, **changes: object) -> ApiKey:
    key = ApiKey(
        id=name,
        user="ada",
        workspace="w",
        role=Role.VIEWER,
        display_name="ci",
        secret_digest=b"d" * 32,
        created=created,
        expires=None,
        last_used=None,
    )
    return replace(key, **changes)


async def _begin(store: SqlStore) -> None:
    def begin(records: Records) -> None:
        assert records.workspaces.add(Workspace("w", "W", NOW))
        assert records.users.add(_user("ada"))
        records.users.set_role("ada", "w", Role.ADMIN)

    await store.write(begin)


def test_migrations_build_what_the_models_say(database: Database) -> None:
    """The revisions and the models describe one schema."""
    assert differences(database.engine, Base.metadata) == []


async def test_a_user_comes_back_as_stored(store: SqlStore) -> None:
    """Every field survives, times to the microsecond and with their zone."""
    await _begin(store)
    ada = await store.read(lambda records: records.users.get("ada"))
    assert ada == _user("ada")
    changed = _user("ada", display_name="Ada", disabled=True, revision=2)
    await store.write(lambda records: records.users.replace(changed))
    assert await store.read(lambda records: records.users.get("ada")) == changed


async def test_an_id_that_is_taken_stays_as_it_is(store: SqlStore) -> None:
    """Adding twice says no and changes nothing."""
    await _begin(store)
    assert not await store.write(lambda r: r.users.add(_user("ada", display_name="other")))
    assert not await store.write(lambda r: r.workspaces.add(Workspace("w", "other", NOW)))
    ada = await store.read(lambda records: records.users.get("ada"))
    assert ada is not None and ada.display_name == ""


async def test_what_raises_keeps_nothing(store: SqlStore) -> None:
    """A transaction is all or nothing."""

    def half(records: Records) -> None:
        records.users.add(_user("bob"))
        raise ValueError("changed my mind")

    with pytest.raises(ValueError, match="changed my mind"):
        await store.write(half)
    assert await store.read(lambda records: records.users.get("bob")) is None


async def test_roles_are_set_changed_and_taken_away(store: SqlStore) -> None:
    """NONE removes the membership."""
    await _begin(store)
    await store.write(lambda records: records.users.set_role("ada", "w", Role.VIEWER))
    assert await store.read(lambda r: dict(r.users.roles("ada"))) == {"w": Role.VIEWER}
    await store.write(lambda records: records.users.set_role("ada", "w", Role.NONE))
    assert await store.read(lambda r: dict(r.users.roles("ada"))) == {}


async def test_members_and_workspaces_page_by_id(store: SqlStore) -> None:
    """After and limit cut the list in order of id."""
    await _begin(store)

    def more(records: Records) -> None:
        for name in ("eve", "bob"):
            records.users.add(_user(name))
            records.users.set_role(name, "w", Role.VIEWER)
        for name in ("v", "x"):
            records.workspaces.add(Workspace(name, "", NOW))
            records.users.set_role("ada", name, Role.DEVELOPER)

    await store.write(more)
    members = await store.read(lambda records: records.users.members("w", "ada", 1))
    assert [(user.id, role) for user, role in members] == [("bob", Role.VIEWER)]
    own = await store.read(lambda records: records.workspaces.of_user("ada", "v", 5))
    assert [(one.id, role) for one, role in own] == [("w", Role.ADMIN), ("x", Role.DEVELOPER)]
    assert await store.read(lambda records: records.workspaces.exists("x"))
    assert not await store.read(lambda records: records.workspaces.exists("y"))


async def test_a_disabled_admin_is_no_other_admin(store: SqlStore) -> None:
    """Only admins who can log in count."""
    await _begin(store)

    def more(records: Records) -> None:
        records.users.add(_user("bob"))
        records.users.set_role("bob", "w", Role.ADMIN)

    await store.write(more)
    assert await store.write(lambda records: records.users.other_admins("w", "ada")) == 1
    await store.write(lambda records: records.users.replace(_user("bob", disabled=True)))
    assert await store.write(lambda records: records.users.other_admins("w", "ada")) == 0


async def test_two_admins_cannot_leave_at_once(store: SqlStore) -> None:
    """Of two that each see the other, one waits and then sees none."""
    await _begin(store)

    def more(records: Records) -> None:
        records.users.add(_user("bob"))
        records.users.set_role("bob", "w", Role.ADMIN)

    await store.write(more)

    both_counted = Barrier(2)

    def leave(records: Records, user: str) -> bool:
        others = records.users.other_admins("w", user)
        # Both get here before either changes anything, unless one holds up the other.
        with suppress(BrokenBarrierError):
            both_counted.wait(timeout=0.3)
        if not others:
            return False
        records.users.set_role(user, "w", Role.NONE)
        return True

    left = await asyncio.gather(
        *(store.write(partial(leave, user=user)) for user in ("ada", "bob"))
    )
    assert sorted(left) == [False, True]


async def test_deleting_a_user_takes_its_credentials(store: SqlStore) -> None:
    """Keys, refresh tokens and roles go with it."""
    await _begin(store)
    token = RefreshToken(b"t" * 32, "f", "ada", "w", NOW)

    def more(records: Records) -> None:
        records.api_keys.add(_key("k"))
        records.refresh_tokens.add(token)

    await store.write(more)
    await store.write(lambda records: records.users.delete("ada"))
    assert await store.read(lambda records: records.api_keys.get("k")) is None
    assert await store.read(lambda records: records.refresh_tokens.get(token.digest)) is None
    assert await store.read(lambda records: dict(records.users.roles("ada"))) == {}


async def test_api_keys_list_newest_first_and_note_their_use(store: SqlStore) -> None:
    """Keys made at one instant have an order too, so that pages neither skip nor repeat."""
    await _begin(store)
    old = NOW - timedelta(days=1)

    def more(records: Records) -> None:
        for key in (_key("a"), _key("b"), _key("c", old), _key("d", expires=NOW)):
            records.api_keys.add(key)

    await store.write(more)
    first = await store.read(lambda records: records.api_keys.of_user("w", "ada", None, 2))
    assert [key.id for key in first] == ["d", "b"]
    cursor = (first[-1].created, first[-1].id)
    rest = await store.read(lambda records: records.api_keys.of_user("w", "ada", cursor, 9))
    assert [key.id for key in rest] == ["a", "c"]
    await store.write(lambda records: records.api_keys.touch("a", NOW))
    used = await store.read(lambda records: records.api_keys.get("a"))
    assert used == _key("a", last_used=NOW)
    await store.write(lambda records: records.api_keys.delete("a"))
    assert await store.read(lambda records: records.api_keys.get("a")) is None


async def test_a_refresh_token_is_unused_for_one_caller(store: SqlStore) -> None:
    """Of many at once, exactly one sees it unused."""
    await _begin(store)
    token = RefreshToken(b"t" * 32, "f", "ada", "w", NOW)
    await store.write(lambda records: records.refresh_tokens.add(token))
    seen = await asyncio.gather(
        *(store.write(lambda records: records.refresh_tokens.use(token.digest)) for _ in range(5))
    )
    assert sorted(one.used for one in seen if one) == [False, True, True, True, True]
    assert await store.write(lambda records: records.refresh_tokens.use(b"?" * 32)) is None


async def test_refresh_tokens_are_revoked_and_forgotten(store: SqlStore) -> None:
    """By family, by user, by time."""
    await _begin(store)
    tokens = [
        RefreshToken(bytes([n]) * 32, family, "ada", "w", NOW + timedelta(seconds=n))
        for n, family in enumerate("ffgh")
    ]

    def more(records: Records) -> None:
        for token in tokens:
            records.refresh_tokens.add(token)

    async def left() -> list[int]:
        return await store.read(
            lambda r: [n for n, token in enumerate(tokens) if r.refresh_tokens.get(token.digest)]
        )

    await store.write(more)
    await store.write(lambda records: records.refresh_tokens.revoke_family("f"))
    assert await left() == [2, 3]
    soon = NOW + timedelta(seconds=3)
    assert await store.write(lambda records: records.refresh_tokens.delete_expired(soon)) == 1
    assert await left() == [3]
    await store.write(lambda records: records.refresh_tokens.revoke_user("ada"))
    assert await left() == []


async def test_audit_lists_newest_first_by_workspace(store: SqlStore) -> None:
    """Events of other workspaces are not shown."""
    event = AuditEvent("w", NOW, "users/ada", "user.create", "users/bob", True, "", "0" * 32)

    def more(records: Records) -> None:
        for action in ("a", "b", "c"):
            records.audit.add(replace(event, action=action))
        records.audit.add(replace(event, workspace="v"))

    await store.write(more)
    newest = await store.read(lambda records: records.audit.of_workspace("w", None, 2))
    assert [one.action for one in newest] == ["c", "b"]
    rest = await store.read(lambda r: r.audit.of_workspace("w", newest[-1].id, 2))
    assert [replace(one, id=0) for one in rest] == [replace(event, action="a")]


async def test_the_oldest_audit_events_are_deleted(store: SqlStore) -> None:
    """Those from before a time, of every workspace, and at most so many."""
    event = AuditEvent("w", NOW, "users/ada", "user.create", "users/bob", True, "", "0" * 32)

    def more(records: Records) -> None:
        for workspace, hours in (("w", 0), ("v", 1), ("w", 2), ("w", 3)):
            moment = NOW + timedelta(hours=hours)
            records.audit.add(replace(event, workspace=workspace, time=moment))

    await store.write(more)
    end = NOW + timedelta(hours=2.5)
    assert await store.write(lambda records: records.audit.delete_oldest(end, 2)) == 2
    assert await store.write(lambda records: records.audit.delete_oldest(end, 2)) == 1
    (left,) = await store.read(lambda records: records.audit.of_workspace("w", None, 9))
    assert left.time == NOW + timedelta(hours=3)
