"""Connections to etcd after a renewed certificate: the new one is used as soon as it can be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from lepton_mesh.etcd.transport import Transport

READY = grpc.ChannelConnectivity.READY
FAILED = grpc.ChannelConnectivity.TRANSIENT_FAILURE


class FakeChannel:
    """A channel that is connected when a test says so."""

    def __init__(self) -> None:
        self.state = FAILED
        self.connected = asyncio.Event()
        self.closed = asyncio.Event()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self.state

    async def channel_ready(self) -> None:
        await self.connected.wait()

    async def close(self) -> None:
        self.closed.set()

    def connect(self) -> None:
        self.state = READY
        self.connected.set()


class Etcd:
    """Every channel that was opened to one endpoint, in order."""

    def __init__(self) -> None:
        self.channels: list[FakeChannel] = []
        self.transport = Transport(["etcd:2379"], self._connect, attempt_seconds=0.02)

    def _connect(self, endpoint: str) -> FakeChannel:
        self.channels.append(FakeChannel())
        return self.channels[-1]

    @property
    def used(self) -> FakeChannel:
        return self.transport._channels["etcd:2379"]

    async def uses(self, channel: FakeChannel) -> None:
        async with asyncio.timeout(10):
            while self.used is not channel:
                await asyncio.sleep(0.005)


@pytest.fixture
async def etcd() -> AsyncIterator[Etcd]:
    """One that is connected."""
    made = Etcd()
    made.transport._channel("etcd:2379")
    made.used.connect()
    yield made
    await made.transport.close()
    assert all(channel.closed.is_set() for channel in made.channels)


async def test_the_new_connection_takes_over_whenever_it_stands(etcd: Etcd) -> None:
    """Also after more than the time that refreshing waits for it."""
    await etcd.transport.refresh()
    old, new = etcd.channels
    assert etcd.used is old
    assert not new.closed.is_set()
    new.connect()
    await etcd.uses(new)
    async with asyncio.timeout(10):
        await old.closed.wait()


async def test_an_old_connection_that_breaks_is_not_kept(etcd: Etcd) -> None:
    """It could only come up again with the certificate that was replaced."""
    await etcd.transport.refresh()
    old, new = etcd.channels
    old.state = FAILED
    await etcd.uses(new)


async def test_a_connection_that_does_not_stand_is_replaced_at_once(etcd: Etcd) -> None:
    etcd.used.state = FAILED
    await etcd.transport.refresh()
    assert etcd.used is etcd.channels[1]


async def test_a_further_certificate_supersedes_one_that_never_connected(etcd: Etcd) -> None:
    await etcd.transport.refresh()
    await etcd.transport.refresh()
    _, second, third = etcd.channels
    async with asyncio.timeout(10):
        await second.closed.wait()
    third.connect()
    await etcd.uses(third)


async def test_closing_ends_what_still_connects(etcd: Etcd) -> None:
    await etcd.transport.refresh()
    await etcd.transport.close()
    assert all(channel.closed.is_set() for channel in etcd.channels)
