"""A real etcd with authentication on, and echo servers as processes."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

from lepton_mesh.discovery import Directory
from tests.etcd_server import EtcdServer, binaries

ECHO = Path(__file__).parent / "echo_process.py"
SERVICES = ("storage", "registry")


@pytest.fixture(scope="session", params=binaries(), ids=lambda path: path.parent.name)
def any_etcd(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EtcdServer]:
    """Each etcd that is installed, provisioned; it stays up."""
    server = EtcdServer(request.param, tmp_path_factory.mktemp("etcd"))
    server.start()
    asyncio.run(server.provision(SERVICES))
    yield server
    server.kill()


@pytest.fixture
async def etcd(tmp_path: Path) -> AsyncIterator[EtcdServer]:
    """One etcd for a test to stop and kill, provisioned."""
    server = EtcdServer(None, tmp_path / "etcd")
    server.start()
    await server.provision(SERVICES)
    yield server
    server.kill()


class EchoProcess:
    """An instance of ``storage`` in a process of its own, registered in etcd."""

    def __init__(self, etcd: EtcdServer, name: str, directory: Path) -> None:
        self.name = name
        files = etcd.authority.write("storage", directory / f"tls-{name}")
        self._process = subprocess.Popen(
            [
                sys.executable,
                str(ECHO),
                json.dumps(
                    {
                        "instance": name,
                        "etcd": etcd.address,
                        "certificate": str(files.certificate),
                        "key": str(files.key),
                        "authority": str(files.authority),
                    }
                ),
            ],
            stdin=subprocess.DEVNULL,
        )

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        return await asyncio.to_thread(self._process.wait, 15)

    def destroy(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def start_echo(etcd: EtcdServer, tmp_path: Path) -> Iterator[object]:
    """Starts an instance by name; all are killed at the end."""
    started: list[EchoProcess] = []

    def start(name: str) -> EchoProcess:
        started.append(EchoProcess(etcd, name, tmp_path))
        return started[-1]

    yield start
    for process in started:
        process.destroy()


@pytest.fixture
async def directory(etcd: EtcdServer) -> AsyncIterator[Directory]:
    """What a job may see."""
    client = etcd.client("job")
    directory = Directory(client)
    await directory.start()
    yield directory
    await directory.close()
    await client.close()


@pytest.fixture
def connect(etcd: EtcdServer):
    """Opens a channel to an instance of storage, over mutual TLS."""

    def open_channel(address: str) -> grpc.aio.Channel:
        return etcd.authority.connect(address, "registry", "storage.lepton.internal")

    return open_channel
