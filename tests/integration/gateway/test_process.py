"""``python -m lepton_gateway`` in a real mesh: etcd, the auth service, mutual TLS."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import httpx
import psutil
import pytest
import pytest_asyncio

from lepton_local.etcd import provision_auth
from lepton_local.tls_files import TlsFiles
from lepton_mesh import credential_files
from lepton_mesh.discovery import Instance
from lepton_mesh.etcd import EtcdClient
from lepton_mesh.tls import connector
from tests.etcd_server import EtcdServer, free_port

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]


@dataclass
class Mesh:
    root: Path
    password: str = ""
    etcd: EtcdServer = field(init=False)
    join_port: int = field(default_factory=free_port)
    processes: list[asyncio.subprocess.Process] = field(default_factory=list)

    def environment(self, service: str, **more: str) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("LEPTON_")}
        return clean | {"LEPTON_STATE_DIR": str(self.root / service)} | more

    def auth_command(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "lepton_auth", *arguments]
        done = subprocess.run(
            command,
            env=self.environment("auth"),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return done.stdout.strip()

    async def start(self) -> None:
        self.password = json.loads(self.auth_command("init"))["password"]
        for service in ("etcd", "supervisor"):
            out = str(self.root / service)
            self.auth_command("issue", "--service", service, "--ip", "127.0.0.1", "--out", out)

        self.etcd = EtcdServer(None, self.root / "etcd-data", TlsFiles.of(self.root / "etcd"))
        self.etcd.start()
        client = self.client()
        await provision_auth(client, ("auth", "gateway"))
        await client.close()
        await self.run("auth", LEPTON_JOIN_LISTEN_PORT=str(self.join_port))
        await self.instance("auth")

    def client(self) -> EtcdClient:
        holder = SimpleNamespace(credentials=credential_files.load(self.root / "supervisor"))
        return EtcdClient([self.etcd.address], connector(holder, "etcd"))

    async def instance(self, service: str) -> Instance:
        """The record of an instance of ``service``, when there is one."""
        client = self.client()
        try:
            async with asyncio.timeout(20):
                while True:
                    found = await client.range_prefix(f"/lepton/services/{service}/")
                    if found.items:
                        return Instance.from_json(found.items[0].value)
                    await asyncio.sleep(0.02)
        finally:
            await client.close()

    async def run(self, service: str, **more: str) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", f"lepton_{service}"),
            env=self.environment(service, LEPTON_ETCD_ENDPOINTS=self.etcd.address, **more),
            stderr=asyncio.subprocess.PIPE,
        )
        self.processes.append(process)
        return process

    async def run_gateway(self, port: int, name: str = "gateway") -> asyncio.subprocess.Process:
        token = self.auth_command(
            *("join-token", "--service", "gateway", "--dns", "localhost", "--ip", "127.0.0.1")
        )
        file = self.root / "join-token"
        file.write_text(token)
        return await self.run(
            "gateway",
            LEPTON_STATE_DIR=str(self.root / name),
            LEPTON_JOIN_ADDRESS=f"127.0.0.1:{self.join_port}",
            LEPTON_JOIN_TOKEN_FILE=str(file),
            LEPTON_GATEWAY_PORT=str(port),
        )

    def http(self, port: int) -> httpx.AsyncClient:
        context = ssl.create_default_context(cafile=str(self.root / "auth/root-ca/cert.pem"))
        return httpx.AsyncClient(base_url=f"https://localhost:{port}", verify=context)

    async def close(self) -> None:
        for process in self.processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
        self.etcd.kill()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    mesh = Mesh(tmp_path_factory.mktemp("mesh"))
    try:
        await mesh.start()
        yield mesh
    finally:
        await mesh.close()


async def test_from_password_to_api_key(mesh: Mesh) -> None:
    """Log in, ask who one is, make an API key, use it; then the gateway drains and is gone."""
    port = free_port()
    gateway = await mesh.run_gateway(port)
    record = await mesh.instance("gateway")
    assert record.ports["public"] == f"127.0.0.1:{port}"
    async with mesh.http(port) as http:
        async with asyncio.timeout(10):
            while True:
                if (await http.get("/readyz")).status_code == 200:
                    break
                await asyncio.sleep(0.02)
        assert (await http.get("/v1/auth/caller")).json()["reason"] == "TOKEN_MISSING"
        wrong = await http.post(
            "/v1/auth/token", json={"password": {"user": "admin", "password": "wrong"}}
        )
        assert wrong.status_code == 401
        assert wrong.json()["details"][0]["reason"] == "CREDENTIAL_INVALID"
        login = await http.post(
            "/v1/auth/token", json={"password": {"user": "admin", "password": mesh.password}}
        )
        token = {"authorization": f"Bearer {login.json()['accessToken']}"}
        assert (await http.get("/v1/auth/caller", headers=token)).json()["subject"] == "users/admin"
        made = await http.post("/v1/apiKeys", headers=token, json={"displayName": "test"})
        key = {"x-api-key": made.json()["secret"]}
        assert (await http.get("/v1/auth/caller", headers=key)).json()["subject"] == "users/admin"
        unknown = f"lpk_{'0' * 16}_{'0' * 43}"
        revoked = await http.get("/v1/auth/caller", headers={"x-api-key": unknown})
        assert revoked.json()["reason"] == "CREDENTIAL_INVALID"
        renew = await http.post(
            "/lepton.api.auth.v1.CertificateService/RenewCertificate",
            headers={**token, "content-type": "application/grpc-web+proto"},
            content=bytes(5),
        )
        assert (
            "grpc-status: 7" in str(renew.headers)
            or b"grpc-status:7" in renew.content
            or (renew.headers.get("grpc-status") == "7")
        )
    children = psutil.Process(gateway.pid).children()
    assert [child.name() for child in children] == ["envoy"]
    gateway.send_signal(signal.SIGTERM)
    async with asyncio.timeout(15):
        assert await gateway.wait() == 0
    assert not any(child.is_running() for child in children)


async def test_a_port_in_use(mesh: Mesh) -> None:
    """One line that names the port and the setting, and no traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = await mesh.run_gateway(port, "gateway-2")
        async with asyncio.timeout(20):
            _, error = await process.communicate()
    assert process.returncode not in (0, None)
    lines = [line for line in error.decode().splitlines() if not line.startswith("{")]
    assert len(lines) == 1, lines
    assert f"port {port} on 127.0.0.1" in lines[0]
    assert "LEPTON_GATEWAY_PORT" in lines[0]
    assert b"Traceback" not in error
