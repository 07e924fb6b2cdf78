"""Registrations and the directory through outages of etcd."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from lepton_mesh.discovery import Directory, Instance, Registration
from lepton_mesh.etcd import EtcdDenied
from tests.etcd_server import EtcdServer, find

pytestmark = pytest.mark.integration

ONE = Instance("storage", "storage-1", "127.0.0.1:1", version="1", ports={"metrics": "127.0.0.1:2"})


async def until(directory: Directory, *expected: Instance) -> None:
    """Returns when the directory shows exactly ``expected`` of storage."""
    changed = asyncio.Event()
    end = directory.subscribe(lambda _: changed.set())
    async with asyncio.timeout(15):
        while directory.instances("storage") != expected:
            await changed.wait()
            changed.clear()
    end()


async def test_register_update_revoke(etcd: EtcdServer, directory: Directory) -> None:
    """An instance is seen as it registered, as it changed, and not after it revoked."""
    client = etcd.client("storage")
    registration = Registration(client, ONE)
    await registration.start()
    await until(directory, ONE)
    renewed = dataclasses.replace(ONE, cert_not_after="2030-01-01T00:00:00Z")
    await registration.update(renewed)
    await until(directory, renewed)
    await registration.revoke()
    await until(directory)
    await client.close()


async def test_a_service_registers_only_itself(etcd: EtcdServer) -> None:
    client = etcd.client("registry")
    with pytest.raises(EtcdDenied):
        await Registration(client, ONE).start()
    await client.close()


async def test_a_lost_lease_is_replaced(etcd: EtcdServer, directory: Directory) -> None:
    """Somebody revokes the lease, as its end in an outage would: the record comes back."""
    client, root = etcd.client("storage"), etcd.client("root")
    registration = Registration(client, ONE, lease_seconds=3)
    await registration.start()
    await until(directory, ONE)
    record = await find(root, ONE.key)
    assert record is not None
    await root.lease_revoke(record.lease)
    await until(directory)
    await until(directory, ONE)
    await registration.revoke()
    await root.close()
    await client.close()


async def test_outage_keeps_the_last_known_set(etcd: EtcdServer, directory: Directory) -> None:
    """While etcd is away nothing is forgotten; a change made in the outage shows afterwards."""
    client = etcd.client("storage", timeout_seconds=1)
    registration = Registration(client, ONE)
    await registration.start()
    await until(directory, ONE)
    etcd.kill()
    renewed = dataclasses.replace(ONE, version="2")
    await registration.update(renewed)
    assert directory.instances("storage") == (ONE,)
    etcd.start()
    await until(directory, renewed)
    await registration.revoke()
    await client.close()


async def test_etcd_comes_back_empty(etcd: EtcdServer, directory: Directory) -> None:
    """The data is lost: instances register again by themselves."""
    client = etcd.client("storage")
    registration = Registration(client, ONE, lease_seconds=3)
    await registration.start()
    await until(directory, ONE)
    etcd.kill()
    etcd.wipe()
    etcd.start()
    await etcd.provision(["storage"])
    root = etcd.client("root")
    async with asyncio.timeout(15):
        while await find(root, ONE.key) is None:
            await asyncio.sleep(0.02)
    # Whether the directory ever showed none depends on who came back first; it sees what is new.
    other = dataclasses.replace(ONE, instance="storage-2")
    await root.put(other.key, other.to_json())
    await until(directory, ONE, other)
    await registration.revoke()
    await until(directory, other)
    await root.close()
    await client.close()


async def test_an_unreadable_record_is_passed_over(etcd: EtcdServer, directory: Directory) -> None:
    """One bad record does not hide the others."""
    root = etcd.client("root")
    await root.put("/lepton/services/storage/bad", b"[not a record")
    await root.put(ONE.key, ONE.to_json())
    await until(directory, ONE)
    await root.close()
