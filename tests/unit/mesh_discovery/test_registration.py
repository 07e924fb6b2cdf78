"""What a registration writes while it is being made anew."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING, cast

from lepton_mesh.discovery import Instance, Registration
from lepton_mesh.etcd import LeaseLost

if TYPE_CHECKING:
    from lepton_mesh.etcd import EtcdClient

ONE = Instance("storage", "storage-1", "127.0.0.1:1")


class Etcd:
    """Grants leases 1, 2, ... when told to; remembers every write with its lease."""

    def __init__(self) -> None:
        self.may_grant = asyncio.Event()
        self.granting = asyncio.Event()
        self.lost = asyncio.Event()
        self.writes: list[tuple[Instance, int]] = []
        self.written = asyncio.Event()
        self.revoked: list[int] = []
        self._leases = 0

    async def lease_grant(self, ttl_seconds: int) -> int:
        self.granting.set()
        await self.may_grant.wait()
        self._leases += 1
        return self._leases

    async def put(self, key: str, value: bytes, lease: int) -> None:
        await asyncio.sleep(0)
        self.writes.append((Instance.from_json(value), lease))
        self.written.set()

    async def lease_keepalive(self, lease: int) -> int:
        await self.lost.wait()
        self.lost.clear()
        raise LeaseLost("gone")

    async def lease_revoke(self, lease: int, timeout_seconds: float) -> None:
        self.revoked.append(lease)


async def test_no_record_is_written_without_a_lease() -> None:
    """A change that comes while the lease is replaced waits for it: it would stay for ever else."""
    etcd = Etcd()
    etcd.may_grant.set()
    registration = Registration(cast("EtcdClient", etcd), ONE)
    await registration.start()
    etcd.may_grant.clear()
    etcd.granting.clear()
    etcd.lost.set()
    renewed = dataclasses.replace(ONE, version="2")
    async with asyncio.timeout(5):
        await etcd.granting.wait()
        update = asyncio.create_task(registration.update(renewed))
        await asyncio.sleep(0)
        etcd.may_grant.set()
        await update
    assert [lease for _, lease in etcd.writes if lease == 0] == []
    assert etcd.writes[-1] == (renewed, 2)
    await registration.revoke()
    assert etcd.revoked == [2]
    await registration.update(ONE)
    assert etcd.writes[-1] == (renewed, 2), "a record after its revocation"
