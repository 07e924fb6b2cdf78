"""The etcd client against real servers: rights, leases, watches through trouble."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lepton_local.etcd import provision_auth
from lepton_mesh.etcd import EtcdClient, EtcdDenied, EtcdUnavailable, LeaseLost, WatchBatch
from lepton_mesh.etcd.admin import EtcdAdmin
from tests.etcd_server import EtcdServer, compact, find

pytestmark = pytest.mark.integration


@pytest.fixture
async def storage(any_etcd: EtcdServer) -> AsyncIterator[EtcdClient]:
    client = any_etcd.client("storage")
    yield client
    await client.close()


@pytest.fixture
def prefix() -> str:
    return f"/lepton/services/storage/{uuid.uuid4().hex}/"


async def take(batches: AsyncIterator[WatchBatch], revision: int) -> list[WatchBatch]:
    """The batches up to the one that makes ``revision`` known."""
    found = []
    async with asyncio.timeout(10):
        async for batch in batches:
            found.append(batch)
            if batch.revision >= revision:
                return found
    raise AssertionError("the watch ended")


def changes(batches: list[WatchBatch]) -> list[tuple[str, bytes | None]]:
    return [
        (event.key.rpartition("/")[2], event.item.value if event.item else None)
        for batch in batches
        for event in batch.events
    ]


async def test_put_get_delete(storage: EtcdClient, prefix: str) -> None:
    """A key is read back as written, listed, and gone when deleted."""
    revision = await storage.put(prefix + "a", b"1")
    found = await find(storage, prefix + "a")
    assert found is not None
    assert (found.value, found.mod_revision, found.lease) == (b"1", revision, 0)
    await storage.put(prefix + "b", b"2")
    listing = await storage.range_prefix(prefix)
    assert [item.value for item in listing.items] == [b"1", b"2"]
    assert listing.revision > revision
    assert await storage.delete(prefix + "a") is True
    assert await storage.delete(prefix + "a") is False
    assert await find(storage, prefix + "a") is None


async def test_lease(storage: EtcdClient, prefix: str) -> None:
    """A key dies with its lease; revoking twice is no error, renewing afterwards is one."""
    lease = await storage.lease_grant(10)
    await storage.put(prefix + "a", b"1", lease)
    assert 0 < await storage.lease_keepalive(lease) <= 10
    await storage.lease_revoke(lease)
    await storage.lease_revoke(lease)
    assert await find(storage, prefix + "a") is None
    with pytest.raises(LeaseLost):
        await storage.lease_keepalive(lease)
    with pytest.raises(LeaseLost):
        await storage.put(prefix + "a", b"1", lease)


@pytest.mark.parametrize(
    ("user", "key", "may_read", "may_write"),
    [
        ("storage", "/lepton/services/storage/x", True, True),
        ("storage", "/lepton/services/registry/x", True, False),
        ("storage", "/other", False, False),
        ("job", "/lepton/services/storage/x", True, False),
        ("job", "/lepton/else", False, False),
        ("stranger", "/lepton/services/storage/x", False, False),
        ("root", "/other", True, True),
    ],
)
async def test_rights(
    any_etcd: EtcdServer, user: str, key: str, may_read: bool, may_write: bool
) -> None:
    """Each name writes its own prefix alone."""
    client = any_etcd.client(user)
    refused = pytest.raises(EtcdDenied)
    try:
        with contextlib.nullcontext() if may_read else refused:
            await client.range_prefix(key)
        with contextlib.nullcontext() if may_write else refused:
            await client.put(key, b"1")
    finally:
        await client.close()


async def test_provisioning_again_changes_nothing(any_etcd: EtcdServer) -> None:
    """The stack provisions at each start."""
    root = any_etcd.client("root")
    await provision_auth(root, ["storage"])
    assert await EtcdAdmin(root).version() in {"3.4.23", "3.5.1"}
    await root.close()
    stranger = any_etcd.client("stranger")
    with pytest.raises(EtcdDenied):
        await stranger.put("/k", b"1")
    await stranger.close()


async def test_watch_reports_listing_then_changes(storage: EtcdClient, prefix: str) -> None:
    """The first batch is what is there, the next ones what happens, each change once."""
    before = await storage.put(prefix + "a", b"1")
    async with contextlib.aclosing(storage.watch(prefix)) as batches:
        first = await take(batches, before)
        assert first[0].resync
        assert changes(first) == [("a", b"1")]
        await storage.put(prefix + "a", b"2")
        await storage.delete(prefix + "a")
        last = await storage.put(prefix + "b", b"3")
        rest = await take(batches, last)
    assert changes(rest) == [("a", b"2"), ("a", None), ("b", b"3")]
    assert not any(batch.resync for batch in rest)


async def test_watch_of_an_empty_prefix_begins_with_an_empty_batch(
    storage: EtcdClient, prefix: str
) -> None:
    async with contextlib.aclosing(storage.watch(prefix)) as batches:
        assert (await anext(batches)).events == ()


async def test_watch_goes_on_from_a_listing(storage: EtcdClient, prefix: str) -> None:
    """With a listing in hand the watch begins after it: nothing twice, nothing missed."""
    await storage.put(prefix + "a", b"1")
    listing = await storage.range_prefix(prefix)
    last = await storage.put(prefix + "b", b"2")
    async with contextlib.aclosing(storage.watch(prefix, listing)) as batches:
        assert changes(await take(batches, last)) == [("b", b"2")]


async def test_watch_refused(any_etcd: EtcdServer) -> None:
    """Who may not read a prefix may not watch it, not even with a listing in hand."""
    root, job = any_etcd.client("root"), any_etcd.client("job")
    listing = await root.range_prefix("/secret/")
    for start in (None, listing):
        with pytest.raises(EtcdDenied):
            await anext(job.watch("/secret/", start))
    await root.close()
    await job.close()


async def test_refresh_moves_to_new_connections(storage: EtcdClient, prefix: str) -> None:
    """After a renewed certificate calls and the watch go on over new connections."""
    async with contextlib.aclosing(storage.watch(prefix)) as batches:
        await anext(batches)
        await storage.refresh()
        last = await storage.put(prefix + "a", b"1")
        assert changes(await take(batches, last)) == [("a", b"1")]


async def test_watch_survives_kill_and_restart(etcd: EtcdServer) -> None:
    """A killed and restarted server: the watch goes on where it was."""
    client = etcd.client("root")
    async with contextlib.aclosing(client.watch("/k/")) as batches:
        await take(batches, await client.put("/k/a", b"1"))
        etcd.kill()
        etcd.start()
        last = await client.put("/k/b", b"2")
        found = await take(batches, last)
    assert changes(found) == [("b", b"2")]
    assert not any(batch.resync for batch in found)
    await client.close()


async def test_compaction_during_a_disconnected_watch(etcd: EtcdServer) -> None:
    """Where the history is gone the keys are listed and the difference reported."""
    client = etcd.client("root")
    await client.put("/k/stays", b"1")
    await client.put("/k/goes", b"1")
    listing = await client.range_prefix("/k/")
    await client.put("/k/changes", b"0")
    await client.delete("/k/goes")
    last = await client.put("/k/changes", b"2")
    await compact(client, last)
    async with contextlib.aclosing(client.watch("/k/", listing)) as batches:
        found = await take(batches, last)
        assert changes(found) == [("goes", None), ("changes", b"2")]
        assert found[0].resync
        after = await client.put("/k/new", b"3")
        assert changes(await take(batches, after)) == [("new", b"3")]
    await client.close()


async def test_watch_notices_a_server_that_lost_its_data(etcd: EtcdServer) -> None:
    """A store made anew is another history: what is not in it counts as deleted."""
    client = etcd.client("root")
    await client.put("/k/a", b"1")
    last = await client.put("/k/b", b"1")
    async with contextlib.aclosing(client.watch("/k/")) as batches:
        await take(batches, last)
        etcd.kill()
        etcd.wipe()
        etcd.start()
        await etcd.provision(["storage"])
        await client.put("/k/b", b"2")
        async with asyncio.timeout(10):
            seen = set()
            while not {("a", None), ("b", b"2")} <= seen:
                seen |= set(changes([await anext(batches)]))
    await client.close()


async def test_a_second_endpoint_takes_over(etcd: EtcdServer) -> None:
    """An endpoint where nothing listens is passed over."""
    both = EtcdClient(
        ["127.0.0.1:1", etcd.address],
        lambda address: etcd.authority.connect(address, "root", "etcd.lepton.internal"),
    )
    assert await both.put("/k", b"1")
    await both.close()


async def test_no_server(tmp_path: Path) -> None:
    """The error says where etcd was expected and what to check, in the time given."""
    absent = EtcdServer(None, tmp_path).client(timeout_seconds=0.3)
    with pytest.raises(EtcdUnavailable, match=r"127\.0\.0\.1.*check that it runs"):
        await absent.range_prefix("/k")
    await absent.close()
