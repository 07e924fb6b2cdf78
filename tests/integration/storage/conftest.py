"""The storage service as a process of its own on a mesh, called through the SDK's transfer."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import pytest_asyncio

from lepton.api.auth.v1 import auth_pb2, auth_pb2_grpc
from lepton.api.storage.v1 import storage_pb2 as pb
from lepton.api.storage.v1.storage_pb2_grpc import StorageServiceStub
from lepton_mesh.runtime import MeshRuntime
from lepton_mesh.spiffe import dns_name
from tests.service_mesh import ServiceMesh, bearer

_START_SECONDS = 30


class StorageProcess:
    """``python -m lepton_storage``, on one port however often it is started."""

    def __init__(self, mesh: ServiceMesh, gateway: MeshRuntime) -> None:
        self._mesh = mesh
        self._gateway = gateway
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self.address = ""
        self.state = mesh.root / "storage"

    async def start(self) -> None:
        """Starts it and returns once discovery shows it."""
        self._starts += 1
        instance = f"storage-{self._starts}"
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("LEPTON_")},
            "LEPTON_STATE_DIR": str(self.state),
            "LEPTON_ETCD_ENDPOINTS": self._mesh.etcd.address,
            "LEPTON_METRICS_PORT": "-1",
            "LEPTON_INSTANCE": instance,
            "LEPTON_LISTEN_PORT": self.address.rpartition(":")[2] or "0",
        }
        shown = asyncio.Event()

        def look(instances: object) -> None:
            found = self._gateway.directory.instances("storage")
            self.address = next((i.address for i in found if i.instance == instance), self.address)
            if any(i.instance == instance for i in found):
                shown.set()

        end = self._gateway.directory.subscribe(look)
        with (self.state / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220  starting takes no time
                [sys.executable, "-m", "lepton_storage"],
                env=environment,
                stderr=log,
                stdout=subprocess.DEVNULL,
            )
        try:
            await asyncio.wait_for(shown.wait(), _START_SECONDS)
        except TimeoutError:
            raise RuntimeError((self.state / "log").read_text()) from None
        finally:
            end()

    def kill(self) -> None:
        """``kill -9``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self._process is not None
        self._process.terminate()
        status = self._process.wait(timeout=30)
        self._process = None
        return status


class World:
    """The mesh, the process, and what clients need."""

    def __init__(self, mesh: ServiceMesh, gateway: MeshRuntime, process: StorageProcess) -> None:
        self.mesh = mesh
        self.gateway = gateway
        self.process = process
        self.tokens: dict[str, str] = {}

    def metadata(self, who: str) -> Sequence[tuple[str, str]]:
        return (("authorization", f"Bearer {self.tokens[who]}"),)

    @contextmanager
    def stub(self, runtime: MeshRuntime | None = None) -> Iterator[StorageServiceStub]:
        """A synchronous stub with the gateway's certificate, or another member's."""
        with self.channel(runtime) as channel:
            yield StorageServiceStub(channel)

    @contextmanager
    def channel(self, runtime: MeshRuntime | None = None) -> Iterator[grpc.Channel]:
        shown = (runtime or self.gateway).identity.credentials
        with grpc.secure_channel(
            self.process.address,
            grpc.ssl_channel_credentials(
                shown.trust_bundle_pem, shown.private_key_pem, shown.certificate_chain_pem
            ),
            [
                ("grpc.ssl_target_name_override", dns_name("storage")),
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 500),
                ("grpc.max_receive_message_length", 64 << 20),
            ],
        ) as channel:
            yield channel


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    mesh = ServiceMesh(tmp_path_factory.mktemp("mesh"))
    await mesh.start("gateway", "storage", "inference", "registry")
    await mesh._identity("storage")
    gateway = await mesh.member("gateway")
    process = StorageProcess(mesh, gateway)
    await process.start()
    made = World(mesh, gateway, process)
    made.tokens = await _tokens(mesh, gateway)
    yield made
    process.kill()
    await mesh.stop()


async def _tokens(mesh: ServiceMesh, gateway: MeshRuntime) -> dict[str, str]:
    """Access tokens: of an admin, a developer, a viewer, and an admin of another workspace."""
    stub = auth_pb2_grpc.AuthServiceStub(gateway.channel("auth"))

    async def log_in(user: str, password: str, workspace: str = "") -> str:
        shown = auth_pb2.IssueTokenRequest.Password(user=user, password=password)
        request = auth_pb2.IssueTokenRequest(password=shown, workspace=workspace)
        return str((await stub.IssueToken(request)).access_token)

    tokens = {"admin": await log_in("admin", mesh.admin_password)}
    admin = bearer(tokens["admin"])
    await stub.CreateWorkspace(
        auth_pb2.CreateWorkspaceRequest(workspace_id="elsewhere"), metadata=admin
    )
    tokens["stranger"] = await log_in("admin", mesh.admin_password, "elsewhere")
    for role in ("viewer", "developer"):
        password = f"password of {role}"
        request = auth_pb2.CreateUserRequest(
            user_id=role, user=auth_pb2.User(password=password), role=f"ROLE_{role.upper()}"
        )
        await stub.CreateUser(request, metadata=admin)
        tokens[role] = await log_in(role, password)
    return tokens


def random_file(path: Path, size: int) -> Path:
    """``path``, with that many random bytes in it."""
    path.write_bytes(os.urandom(size))
    return path


def artifact_of(world: World, stub: StorageServiceStub, upload: pb.Upload) -> pb.Artifact:
    """The artifact that the developer makes of an upload."""
    request = pb.CreateArtifactRequest(
        artifact=pb.Artifact(sha256=upload.sha256, filename="model.onnx")
    )
    return stub.CreateArtifact(request, metadata=world.metadata("developer"))
