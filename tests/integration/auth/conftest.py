"""The auth service on a mesh of its own, called as the gateway calls it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from lepton.api.auth.v1 import auth_pb2 as pb
from lepton.api.auth.v1 import auth_pb2_grpc
from lepton_mesh.runtime import MeshRuntime
from tests.service_mesh import ServiceMesh, bearer


@dataclass
class Auth:
    """Stubs over the mesh, and the first admin's token."""

    mesh: ServiceMesh
    gateway: MeshRuntime
    users: Any
    certificates: Any
    admin: str

    async def log_in(
        self, user: str, password: str, workspace: str = "default"
    ) -> pb.IssueTokenResponse:
        request = pb.IssueTokenRequest(
            password=pb.IssueTokenRequest.Password(user=user, password=password),
            workspace=workspace,
        )
        answer: pb.IssueTokenResponse = await self.users.IssueToken(request)
        return answer

    async def new_user(self, name: str, role: str) -> str:
        """A new user's token; its password is ``password of <name>``."""
        request = pb.CreateUserRequest(
            user_id=name, user=pb.User(password=f"password of {name}"), role=role
        )
        await self.users.CreateUser(request, metadata=bearer(self.admin))
        return (await self.log_in(name, f"password of {name}")).access_token


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def auth(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Auth]:
    mesh = ServiceMesh(tmp_path_factory.mktemp("mesh"))
    await mesh.start("gateway", "training")
    gateway = await mesh.member("gateway")
    channel = gateway.channel("auth")
    found = Auth(
        mesh,
        gateway,
        auth_pb2_grpc.AuthServiceStub(channel),
        auth_pb2_grpc.CertificateServiceStub(channel),
        "",
    )
    found.admin = (await found.log_in("admin", mesh.admin_password)).access_token
    yield found
    await mesh.stop()
