"""Calls over several processes while those, or etcd, are restarted, killed and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from lepton_mesh.balancer import BalancedChannel
from lepton_mesh.connect import Connect
from lepton_mesh.discovery import Directory
from tests.etcd_server import EtcdServer

pytestmark = pytest.mark.integration

GET, SLOW, COUNT = "/test.Echo/Get", "/test.Echo/Slow", "/test.Echo/Count"
Start = Callable[[str], Any]


class Load:
    """Eight callers, one call after the other each; remembers who answered and what failed."""

    def __init__(self, channel: BalancedChannel) -> None:
        self._get = channel.unary_unary(GET)
        self.answers: Counter[str] = Counter()
        self.failures: list[grpc.aio.AioRpcError] = []
        self.calls: Counter[int] = Counter()
        self.slowest = 0.0
        self._progress = asyncio.Condition()
        self._stop = False

    async def _caller(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        while not self._stop:
            started = loop.time()
            try:
                answer = await self._get(b"x", timeout=5)
                self.answers[answer.decode().partition(":")[0]] += 1
            except grpc.aio.AioRpcError as error:
                self.failures.append(error)
            self.calls[number] += 1
            self.slowest = max(self.slowest, loop.time() - started)
            async with self._progress:
                self._progress.notify_all()
            await asyncio.sleep(0.002)  # leaves the two cores to the servers

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20), self._progress:
            await self._progress.wait_for(condition)

    async def more(self, count: int = 200) -> None:
        """Returns after so many further answers."""
        goal = self.answers.total() + count
        await self.until(lambda: self.answers.total() >= goal)

    async def everyone(self, count: int = 20) -> None:
        """Returns after so many further calls of each caller: none of them hangs."""
        goal = {number: calls + count for number, calls in self.calls.items()}
        await self.until(lambda: all(self.calls[number] >= goal[number] for number in goal))

    async def from_instance(self, name: str) -> None:
        """Returns after a further answer of ``name``."""
        goal = self.answers[name] + 1
        await self.until(lambda: self.answers[name] >= goal)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Load]:
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(self._caller(number))
            try:
                yield self
            finally:
                self._stop = True


@pytest.fixture
async def channel(directory: Directory, connect: Connect) -> AsyncIterator[BalancedChannel]:
    async with BalancedChannel(directory, "storage", connect, hedged={GET}) as channel:
        yield channel


async def connected(channel: BalancedChannel, *names: str) -> None:
    """Returns when all of ``names`` are connected, and no other."""
    async with asyncio.timeout(20):
        while len([one for one in channel.pool.endpoints if one.ready]) != len(names):
            await channel.pool.wait_for_change()


async def test_rolling_restart(channel: BalancedChannel, start_echo: Start) -> None:
    """Each instance is replaced in turn, and no call fails."""
    old = [start_echo("a"), start_echo("b")]
    await connected(channel, "a", "b")
    async with Load(channel).running() as load:
        for process in old:
            successor = start_echo(process.name + "2")
            await load.from_instance(successor.name)
            process.signal(signal.SIGTERM)
            assert await process.ended() == 0
            await load.more()
    assert load.failures == []
    assert set(load.answers) == {"a", "b", "a2", "b2"}


async def test_kill_stop_and_outage(
    channel: BalancedChannel, start_echo: Start, etcd: EtcdServer
) -> None:
    """kill -9 of one of three, SIGSTOP of another, etcd killed meanwhile: no call fails."""
    killed, stopped, other = start_echo("killed"), start_echo("stopped"), start_echo("other")
    await connected(channel, "killed", "stopped", "other")
    async with Load(channel).running() as load:
        for process in (killed, stopped, other):
            await load.from_instance(process.name)
        killed.signal(signal.SIGKILL)
        await load.more()
        stopped.signal(signal.SIGSTOP)
        await load.everyone()
        etcd.kill()
        await load.more()
        stopped.signal(signal.SIGCONT)
        await load.from_instance("stopped")
        etcd.start()
        start_echo("late")
        await load.from_instance("late")
    assert load.failures == []
    assert load.slowest < 3


async def test_streams_outlive_their_instances_departure(
    channel: BalancedChannel, start_echo: Start
) -> None:
    """An instance leaves while a stream runs: the stream ends whole, new calls go elsewhere."""
    leaving = start_echo("leaving")
    await connected(channel, "leaving")
    stream = channel.unary_stream(COUNT)(b"150")
    numbers = [await stream.read()]
    start_echo("staying")
    await connected(channel, "leaving", "staying")
    leaving.signal(signal.SIGTERM)
    numbers += [number async for number in stream]
    assert numbers == [str(number).encode() for number in range(150)]
    assert await stream.code() is grpc.StatusCode.OK
    assert await leaving.ended() == 0
    assert (await channel.unary_unary(GET)(b"x", timeout=5)).startswith(b"staying")


async def test_refresh_under_load(channel: BalancedChannel, start_echo: Start) -> None:
    """Every connection is replaced while calls run, as after a renewed certificate."""
    start_echo("a")
    await connected(channel, "a")
    before = channel.pool.endpoints
    async with Load(channel).running() as load:
        for _ in range(3):
            before = channel.pool.endpoints
            await channel.refresh()
            async with asyncio.timeout(10):
                while set(channel.pool.endpoints) & set(before):
                    await channel.pool.wait_for_change()
            await load.more()
    assert load.failures == []
