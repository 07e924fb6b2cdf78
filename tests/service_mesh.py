"""A mesh for tests: real etcd, the auth service's own authority, services in this process.

Each service is built by its own bootstrap and served as ``run_service`` does, over mutual TLS on
a port of its own; only the process boundary is missing.
"""

from __future__ import annotations

import asyncio
import json
from argparse import Namespace
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import grpc

from lepton_auth import bootstrap, offline
from lepton_auth.config import AuthSettings
from lepton_local.etcd import provision_auth
from lepton_local.tls_files import TlsFiles
from lepton_mesh import credential_files
from lepton_mesh.config import MeshSettings
from lepton_mesh.etcd import EtcdClient
from lepton_mesh.process import Service, serve
from lepton_mesh.runtime import MeshRuntime
from lepton_mesh.tls import connector
from tests.etcd_server import EtcdServer

SettingsT = TypeVar("SettingsT", bound=MeshSettings)


class ServiceMesh:
    """Made with :meth:`start`; everything ends with :meth:`stop`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stopping: list[tuple[asyncio.Event, asyncio.Task[None]]] = []
        self._runtimes: list[MeshRuntime] = []

    async def start(self, *services: str) -> None:
        """The authority with its first admin, etcd with users for ``services``, and auth."""
        auth = AuthSettings.load("auth", {"LEPTON_STATE_DIR": str(self.root / "auth")})
        self.init_answer = json.loads(await offline.init(auth, Namespace()))
        self.admin_password: str = self.init_answer["password"]
        etcd = await self._identity("etcd")
        self.etcd = EtcdServer(
            None,
            self.root / "etcd",
            TlsFiles.of(etcd),
        )
        await asyncio.to_thread(self.etcd.start)
        credentials = credential_files.load(await self._identity("supervisor"))
        holder: Any = SimpleNamespace(credentials=credentials)
        client = EtcdClient([self.etcd.address], connector(holder, "etcd"))
        await provision_auth(client, ("auth", *services))
        await client.close()
        self.auth = await self._serve(
            await MeshRuntime.open(
                "auth",
                self._settings("auth", AuthSettings),
                renewer=await bootstrap.authority(auth),
            ),
            bootstrap.build,
        )

    async def serve(
        self,
        service: str,
        settings: type[SettingsT],
        build: Callable[[MeshRuntime, Any], Awaitable[Service]],
    ) -> MeshRuntime:
        """Starts ``service`` as its own ``__main__`` would; returns when it is found."""
        await self._identity(service)
        return await self._serve(
            await MeshRuntime.open(service, self._settings(service, settings)), build
        )

    async def member(self, service: str) -> MeshRuntime:
        """A process of the mesh that serves nothing: its channels carry ``service``'s identity."""
        await self._identity(service)
        runtime = await MeshRuntime.open(service, self._settings(service, MeshSettings))
        self._runtimes.append(runtime)
        return runtime

    async def stop(self) -> None:
        for runtime in self._runtimes:
            await runtime.close()
        for stop, _ in self._stopping:
            stop.set()
        await asyncio.gather(*(task for _, task in self._stopping))
        await asyncio.to_thread(self.etcd.kill)

    async def _serve(
        self,
        runtime: MeshRuntime,
        build: Callable[[MeshRuntime, Any], Awaitable[Service]],
    ) -> MeshRuntime:
        stop = asyncio.Event()

        async def run() -> None:
            async with runtime:
                await serve(runtime, await build(runtime, runtime.settings), stop)

        task = asyncio.create_task(run())
        self._stopping.append((stop, task))
        found = asyncio.create_task(self._found(runtime))
        await asyncio.wait({task, found}, timeout=20, return_when=asyncio.FIRST_COMPLETED)
        if not found.done():
            found.cancel()
            raise RuntimeError(f"{runtime.service} did not start: {task}")
        return runtime

    @staticmethod
    async def _found(runtime: MeshRuntime) -> None:
        changed = asyncio.Event()
        end = runtime.directory.subscribe(lambda _: changed.set())
        while not runtime.directory.instances(runtime.service):
            await changed.wait()
            changed.clear()
        end()

    def _settings(self, service: str, settings: type[SettingsT]) -> SettingsT:
        environment = {
            "LEPTON_STATE_DIR": str(self.root / service),
            "LEPTON_ETCD_ENDPOINTS": self.etcd.address,
            "LEPTON_METRICS_PORT": "-1",
            "LEPTON_DRAIN_GRACE_SECONDS": "0.1",
        }
        return settings.load(service, environment)

    async def _identity(self, service: str) -> Path:
        """A certificate of ``service`` where its process looks for one."""
        directory = self.root / service / "identity"
        auth = AuthSettings.load("auth", {"LEPTON_STATE_DIR": str(self.root / "auth")})
        # etcd's clients check its address as well.
        addresses = ["127.0.0.1"] if service == "etcd" else []
        names = Namespace(service=service, dns=[], ip=addresses, out=directory, ttl_seconds=0)
        await offline.issue(auth, names)
        return directory


def bearer(token: str) -> grpc.aio.Metadata:
    """The metadata of a call made with ``token``."""
    return grpc.aio.Metadata(("authorization", f"Bearer {token}"))
