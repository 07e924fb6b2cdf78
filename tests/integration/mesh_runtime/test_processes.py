"""run_service with a real etcd: services find each other, verify tokens, and drain."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.wrappers_pb2 import StringValue

from lepton_local.etcd import provision_auth
from lepton_local.tls_files import TlsFiles
from lepton_mesh import credential_files
from lepton_mesh.caller import Role
from lepton_mesh.claims import ALGORITHM, Claims, to_payload
from lepton_mesh.config import MeshSettings
from lepton_mesh.discovery import Instance
from lepton_mesh.disk import BALLAST_BYTES, BALLAST_FILE
from lepton_mesh.errors import Unauthenticated
from lepton_mesh.etcd import EtcdClient
from lepton_mesh.pki import CertificateAuthority, Names
from lepton_mesh.runtime import MeshRuntime
from lepton_mesh.spiffe import SpiffeId
from lepton_mesh.tls import connector
from tests.etcd_server import EtcdServer, free_port

pytestmark = pytest.mark.integration

SCRIPT = Path(__file__).parent / "mesh_process.py"


class Stack:
    """An etcd, an authority, and the processes of a test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.authority = CertificateAuthority.create_root("lepton.local").create_intermediate()
        directory = self.identity("etcd")
        files = TlsFiles.of(directory)
        self.etcd = EtcdServer(None, root / "etcd", files)
        self.signing_key = ec.generate_private_key(ec.SECP256R1())
        self.processes: list[subprocess.Popen[str]] = []

    def identity(self, service: str) -> Path:
        """A directory with a certificate for ``service``."""
        directory = self.root / f"identity-{service}"
        if not directory.exists():
            names = Names(
                SpiffeId.for_service("lepton.local", service), ip_addresses=("127.0.0.1",)
            )
            credential_files.save(directory, self.authority.issue_credentials(names))
        return directory

    async def start_etcd(self) -> None:
        self.etcd.start()
        holder = type("Holder", (), {})()
        holder.credentials = credential_files.load(self.identity("supervisor"))
        client = EtcdClient([self.etcd.address], connector(holder, "etcd"))
        await provision_auth(client, ("auth", "storage", "gateway"))
        await client.close()

    def settings(self, service: str, instance: str) -> dict[str, str]:
        return {
            "LEPTON_STATE_DIR": str(self.root / instance),
            "LEPTON_IDENTITY_DIR": str(self.identity(service)),
            "LEPTON_ETCD_ENDPOINTS": self.etcd.address,
            "LEPTON_INSTANCE": instance,
        }

    def run(self, service: str, instance: str, **extra: str) -> subprocess.Popen[str]:
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith("LEPTON_")
        }
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), service],
            env=clean | self.settings(service, instance) | extra,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def run_auth(self) -> subprocess.Popen[str]:
        numbers = self.signing_key.public_key().public_numbers()
        x, y = (
            base64.urlsafe_b64encode(number.to_bytes(32)).rstrip(b"=").decode()
            for number in (numbers.x, numbers.y)
        )
        file = self.root / "key.json"
        file.write_text(json.dumps({"kid": "k1", "kty": "EC", "crv": "P-256", "x": x, "y": y}))
        return self.run("auth", "auth-1", LEPTON_KEY_FILE=str(file))

    def token(self) -> str:
        now = int(time.time())
        claims = Claims("users/ada", "user", "lab", Role.VIEWER, expires=now + 600)
        payload = to_payload(claims, issued=now)
        return jwt.encode(payload, self.signing_key, ALGORITHM, headers={"kid": "k1"})

    async def gateway(self) -> MeshRuntime:
        return await MeshRuntime.open(
            "gateway", MeshSettings.load("gateway", self.settings("gateway", "gateway-1"))
        )

    def destroy(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self.etcd.kill()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path)
    yield made
    made.destroy()


@pytest.fixture
async def gateway(stack: Stack) -> AsyncIterator[MeshRuntime]:
    await stack.start_etcd()
    async with await stack.gateway() as runtime:
        yield runtime


def echo(runtime: MeshRuntime) -> Any:
    return runtime.channel("storage").unary_unary(
        "/test.v1.Echo/Get",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )


async def gone(runtime: MeshRuntime, instance: str) -> None:
    """Returns when the directory has forgotten ``instance``."""
    changed = asyncio.Event()
    end = runtime.directory.subscribe(lambda _: changed.set())
    while any(one.instance == instance for one in runtime.directory.instances("storage")):
        changed.clear()
        await asyncio.wait_for(changed.wait(), 15)
    end()


async def known(runtime: MeshRuntime, instance: str) -> Instance:
    """The record of ``instance``, as soon as the directory has it."""
    changed = asyncio.Event()
    end = runtime.directory.subscribe(lambda _: changed.set())
    while True:
        for one in runtime.directory.instances(instance.split("-", maxsplit=1)[0]):
            if one.instance == instance:
                end()
                return one
        changed.clear()
        await asyncio.wait_for(changed.wait(), 15)


async def test_a_service_keeps_room_for_the_day_its_disk_is_full(
    stack: Stack, gateway: MeshRuntime
) -> None:
    """A file that takes real blocks, and that an operator deletes then."""
    ballast = stack.root / "storage-1" / BALLAST_FILE
    stack.run_auth()
    stack.run("storage", "storage-1")
    await known(gateway, "storage-1")
    assert ballast.stat().st_blocks * 512 >= BALLAST_BYTES


async def test_services_meet_verify_tokens_and_roll_without_a_failed_call(
    stack: Stack, gateway: MeshRuntime
) -> None:
    """Storage takes auth's keys over the mesh; replacing its instance under load fails nothing."""
    auth, first = stack.run_auth(), stack.run("storage", "storage-1")
    await known(gateway, "auth-1")
    record = await known(gateway, "storage-1")
    assert record.spiffe_id == "spiffe://lepton.local/svc/storage"
    assert record.ports["extra"] == "127.0.0.1:1"

    call = echo(gateway)
    sent = (("authorization", f"Bearer {stack.token()}"),)
    answer = await call(StringValue(value="x"), metadata=sent, timeout=10)
    assert answer.value == "users/ada in lab"
    with pytest.raises(Unauthenticated) as caught:
        await call(StringValue(value="x"), timeout=10)
    assert caught.value.reason == "TOKEN_MISSING"

    stop, calls = asyncio.Event(), 0

    async def load() -> None:
        nonlocal calls
        while not stop.is_set():
            await call(StringValue(value="x"), metadata=sent, timeout=10)
            calls += 1

    workers = [asyncio.create_task(load()) for _ in range(8)]
    second = stack.run("storage", "storage-2")
    await known(gateway, "storage-2")
    first.send_signal(signal.SIGTERM)
    await gone(gateway, "storage-1")
    assert await asyncio.to_thread(first.wait, 15) == 0
    for _ in range(20):
        await call(StringValue(value="x"), metadata=sent, timeout=10)
    stop.set()
    await asyncio.gather(*workers)
    assert calls > 8

    log = [json.loads(line) for line in first.stderr.read().splitlines()]
    assert [entry["event"] for entry in log if entry["logger"] == "lepton_mesh.process"] == [
        "serving",
        "draining",
        "stopped",
    ]
    assert not [entry for entry in log if entry["level"] in ("warning", "error")]

    port = (await known(gateway, "storage-2")).ports["metrics"]
    text = await asyncio.to_thread(_get, f"http://{port}/metrics")
    assert 'lepton_server_call_seconds_count{code="OK",method="/test.v1.Echo/Get"}' in text
    assert "lepton_certificate_expiry_timestamp_seconds" in text
    for process in (auth, second):
        process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(process.wait, 15) == 0


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as response:
        text: str = response.read().decode()
        return text


@pytest.mark.parametrize(
    ("extra", "status", "says"),
    [
        ({"LEPTON_LISTEN_PROT": "1"}, 2, "LEPTON_LISTEN_PROT"),
        ({"LEPTON_LISTEN_PORT": "banana"}, 2, "LEPTON_LISTEN_PORT"),
        ({"LEPTON_IDENTITY_DIR": "/nonexistent"}, 2, "LEPTON_IDENTITY_DIR"),
        ({"LEPTON_IDENTITY_DIR": ""}, 1, "LEPTON_JOIN_TOKEN_FILE"),
    ],
)
async def test_a_start_that_fails_says_why_in_one_line(
    stack: Stack, extra: dict[str, str], status: int, says: str
) -> None:
    """One line on stderr that names the remedy, no traceback; 2 for a setting, else 1."""
    process = stack.run("storage", "storage-1", LEPTON_LOG_LEVEL="warning", **extra)
    _, stderr = await asyncio.to_thread(process.communicate, timeout=15)
    assert process.returncode == status, stderr
    (line,) = stderr.splitlines()
    assert line.startswith("lepton storage: ")
    assert says in line


async def test_an_error_that_nobody_foresaw_leaves_its_traceback_in_the_log(stack: Stack) -> None:
    """Without debugging turned on; the last line is for people all the same."""
    await stack.start_etcd()
    process = stack.run("storage", "storage-1", LEPTON_LOG_LEVEL="warning", LEPTON_FAIL="no disk")
    _, stderr = await asyncio.to_thread(process.communicate, timeout=15)
    assert process.returncode == 1
    record, line = stderr.splitlines()
    assert json.loads(record)["event"] == "ended by an unexpected error"
    assert "in build_storage" in record
    assert line == "lepton storage: RuntimeError: no disk"


async def test_a_port_that_is_taken_stops_the_start(stack: Stack, gateway: MeshRuntime) -> None:
    """Two servers never share a port in silence."""
    port = str(free_port())
    stack.run("storage", "storage-1", LEPTON_LISTEN_PORT=port)
    await known(gateway, "storage-1")
    process = stack.run("storage", "storage-2", LEPTON_LISTEN_PORT=port, LEPTON_LOG_LEVEL="warning")
    _, stderr = await asyncio.to_thread(process.communicate, timeout=15)
    assert process.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in stderr
    assert "Traceback" not in stderr
