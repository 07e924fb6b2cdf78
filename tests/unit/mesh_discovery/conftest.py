"""Echo servers in this process, and a directory that a test fills by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest

from lepton_mesh.balancer import BalancedChannel
from lepton_mesh.connect import CHANNEL_OPTIONS
from lepton_mesh.discovery import Instance


class FakeDirectory:
    """A directory without etcd."""

    def __init__(self) -> None:
        self._instances: dict[str, Instance] = {}
        self._callbacks: list[Callable[[str], None]] = []

    def instances(self, service: str) -> tuple[Instance, ...]:
        return tuple(one for one in self._instances.values() if one.service == service)

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def add(self, name: str, address: str) -> None:
        self._instances[name] = Instance("echo", name, address)
        self._tell()

    def remove(self, name: str) -> None:
        del self._instances[name]
        self._tell()

    def _tell(self) -> None:
        for callback in tuple(self._callbacks):
            callback("echo")


class Echo(grpc.GenericRpcHandler):
    """One server; ``gate`` holds every answer back while it is cleared."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls = 0
        self.open_streams = 0
        self.fail: grpc.StatusCode | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self.server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return {
            "/e/UU": grpc.unary_unary_rpc_method_handler(self.unary_unary),
            "/e/US": grpc.unary_stream_rpc_method_handler(self.unary_stream),
            "/e/SU": grpc.stream_unary_rpc_method_handler(self.stream_unary),
            "/e/SS": grpc.stream_stream_rpc_method_handler(self.stream_stream),
        }[handler_call_details.method]

    async def _enter(self, context: grpc.aio.ServicerContext) -> None:
        self.calls += 1
        self.reached.set()
        await self.gate.wait()
        if self.fail is not None:
            await context.abort(self.fail, f"{self.name} fails")

    async def unary_unary(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        await self._enter(context)
        context.set_trailing_metadata((("served-by", self.name),))
        return self.name.encode()

    async def unary_stream(self, request: bytes, context: grpc.aio.ServicerContext):
        await self._enter(context)
        for _ in range(int(request)):
            yield self.name.encode()

    async def stream_unary(self, requests, context: grpc.aio.ServicerContext) -> bytes:
        await self._enter(context)
        return b"".join([request async for request in requests])

    async def stream_stream(self, requests, context: grpc.aio.ServicerContext):
        await self._enter(context)
        async for request in requests:
            yield request


StartServer = Callable[[str], Awaitable[Echo]]


@pytest.fixture
def directory() -> FakeDirectory:
    return FakeDirectory()


@pytest.fixture
async def start(directory: FakeDirectory) -> AsyncIterator[StartServer]:
    """Starts a server and adds it to the directory."""
    servers: list[Echo] = []

    async def start_server(name: str) -> Echo:
        echo = Echo(name)
        await echo.server.start()
        servers.append(echo)
        directory.add(name, echo.address)
        return echo

    yield start_server
    for echo in servers:
        echo.gate.set()
        await echo.server.stop(None)


@pytest.fixture
async def balanced(directory: FakeDirectory) -> AsyncIterator[Callable[..., BalancedChannel]]:
    """Makes channels over the directory; they are closed at the end."""
    channels: list[BalancedChannel] = []

    def make(**settings: object) -> BalancedChannel:
        channel = BalancedChannel(
            directory,
            "echo",
            lambda address: grpc.aio.insecure_channel(address, options=list(CHANNEL_OPTIONS)),
            **settings,
        )
        channels.append(channel)
        return channel

    yield make
    for channel in channels:
        await channel.close()


async def ready(channel: BalancedChannel, count: int) -> None:
    """Returns when so many instances are connected."""
    async with asyncio.timeout(10):
        while sum(one.ready for one in channel.pool.endpoints) != count:
            await channel.pool.wait_for_change()


@pytest.fixture
def until_ready() -> Callable[[BalancedChannel, int], Awaitable[None]]:
    return ready
