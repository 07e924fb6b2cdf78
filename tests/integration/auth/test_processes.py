"""The auth service and the registry as processes: init, certificates, join, serve, stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lepton_auth import offline
from lepton_auth.config import AuthSettings
from lepton_local.etcd import provision_auth
from lepton_local.tls_files import TlsFiles
from lepton_mesh import credential_files
from lepton_mesh.discovery import Directory
from lepton_mesh.etcd import EtcdClient
from lepton_mesh.tls import connector
from tests.etcd_server import EtcdServer

pytestmark = pytest.mark.integration


class Processes:
    """What a test started, and where."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("LEPTON_")
        } | {"LEPTON_METRICS_PORT": "-1"}
        self.running: list[subprocess.Popen[str]] = []
        self.etcd: EtcdServer | None = None

    async def run(self, *arguments: str) -> str:
        """The output of an offline command of the auth service."""
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "lepton_auth", *arguments],
            env=self.environment | {"LEPTON_STATE_DIR": str(self.root / "auth")},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout.strip()

    def start(self, service: str, **settings: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", f"lepton_{service}"],
            env=self.environment | {"LEPTON_STATE_DIR": str(self.root / service)} | settings,
            stdin=subprocess.DEVNULL,
            stderr=(self.root / f"{service}.log").open("w"),
            text=True,
        )
        self.running.append(process)
        return process

    def destroy(self) -> None:
        for process in self.running:
            if process.poll() is None:
                process.kill()
            process.wait()
        if self.etcd is not None:
            self.etcd.kill()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    processes = Processes(tmp_path)
    yield processes
    processes.destroy()


async def test_from_nothing_to_a_joined_registry(processes: Processes) -> None:
    """init twice, etcd's certificate, auth serves, the registry joins by token, both stop clean."""
    root = processes.root
    first = json.loads(await processes.run("init"))
    settings = AuthSettings.load("auth", {"LEPTON_STATE_DIR": str(root / "auth")})
    again = json.loads(await offline.init(settings, Namespace()))
    assert len(first["password"]) >= 20
    assert again == {**first, "password": None}, "the second run changes nothing and says so"
    etcd_files, supervisor = root / "etcd-identity", root / "supervisor"
    for service, out in (("etcd", etcd_files), ("supervisor", supervisor)):
        names = Namespace(service=service, dns=[], ip=["127.0.0.1"], out=out, ttl_seconds=0)
        await offline.issue(settings, names)
    token_file = root / "token"
    newcomer = Namespace(service="registry", dns=[], ip=[], ttl_seconds=0)
    token = await offline.join_token(settings, newcomer)
    token_file.write_text(token)
    files = TlsFiles.of(etcd_files)
    processes.etcd = EtcdServer(None, root / "etcd", files)
    await asyncio.to_thread(processes.etcd.start)
    holder: Any = SimpleNamespace(credentials=credential_files.load(supervisor))
    client = EtcdClient([processes.etcd.address], connector(holder, "etcd"))
    await provision_auth(client, ("auth", "registry"))
    directory = Directory(client)
    await directory.start()

    etcd = {"LEPTON_ETCD_ENDPOINTS": processes.etcd.address}
    auth = processes.start("auth", **etcd)
    (record,) = await _appears(directory, "auth", auth)
    registry = processes.start(
        "registry",
        **etcd,
        LEPTON_JOIN_ADDRESS=record.ports["join"],
        LEPTON_JOIN_TOKEN_FILE=str(token_file),
    )
    (joined,) = await _appears(directory, "registry", registry)
    assert joined.spiffe_id == "spiffe://lepton.local/svc/registry"
    assert not token_file.exists()
    modes = {path.name: path.stat().st_mode & 0o777 for path in (root / "auth").iterdir()}
    assert modes["signing-keys.json"] == 0o600

    for process in (registry, auth):
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0
    await directory.close()
    await client.close()


async def _appears(
    directory: Directory, service: str, process: subprocess.Popen[str]
) -> tuple[Any, ...]:
    """The instances of ``service`` as soon as there are any."""
    changed = asyncio.Event()
    end = directory.subscribe(lambda _: changed.set())
    ended = asyncio.create_task(asyncio.to_thread(process.wait))
    async with asyncio.timeout(30):
        while not directory.instances(service):
            change = asyncio.create_task(changed.wait())
            await asyncio.wait({change, ended}, return_when=asyncio.FIRST_COMPLETED)
            assert not ended.done(), f"{service} ended with {process.returncode}"
            changed.clear()
    end()
    return tuple(directory.instances(service))
