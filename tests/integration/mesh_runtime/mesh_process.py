"""Two made-up services run by run_service: `auth` publishes a key, `storage` echoes."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.wrappers_pb2 import StringValue

from lepton.api.auth.v1 import auth_pb2, auth_pb2_grpc
from lepton_mesh.authorization import AuthorizationTable, Rule
from lepton_mesh.caller import Role, current_caller
from lepton_mesh.config import MeshSettings
from lepton_mesh.process import Served, Service, run_service
from lepton_mesh.runtime import MeshRuntime


class TestSettings(MeshSettings):
    key_file: Path = Path("/nonexistent")
    """The public key that auth publishes, a JSON Web Key."""
    fail: str = ""
    """Makes the build fail with this text."""


class Auth(auth_pb2_grpc.AuthServiceServicer):
    def __init__(self, key: dict[str, str]) -> None:
        self._key = key

    async def GetJwks(self, request: Any, context: Any) -> auth_pb2.Jwks:
        return auth_pb2.Jwks(keys=[auth_pb2.JsonWebKey(**self._key)])


class Certificates(auth_pb2_grpc.CertificateServiceServicer):
    async def ListRevokedCertificates(
        self, request: Any, context: Any
    ) -> auth_pb2.ListRevokedCertificatesResponse:
        return auth_pb2.ListRevokedCertificatesResponse()


async def build_auth(runtime: MeshRuntime, settings: TestSettings) -> Service:
    key = json.loads(await asyncio.to_thread(settings.key_file.read_text))
    services = auth_pb2.DESCRIPTOR.services_by_name

    async def keys() -> list[dict[str, str]]:
        return [key]

    async def revoked() -> list[str]:
        return []

    return Service(
        servicers=[
            Served(
                auth_pb2_grpc.add_AuthServiceServicer_to_server, Auth(key), services["AuthService"]
            ),
            Served(
                auth_pb2_grpc.add_CertificateServiceServicer_to_server,
                Certificates(),
                services["CertificateService"],
            ),
        ],
        table=AuthorizationTable(
            {
                f"/{service.full_name}/{method.name}": Rule(peers=True)
                for service in services.values()
                for method in service.methods
            }
        ),
        fetch_keys=keys,
        fetch_revoked=revoked,
    )


async def build_storage(runtime: MeshRuntime, settings: TestSettings) -> Service:
    if settings.fail:
        raise RuntimeError(settings.fail)

    async def get(request: StringValue, context: Any) -> StringValue:
        if request.value == "pid":
            return StringValue(value=str(os.getpid()))
        await asyncio.sleep(0.02)  # so that calls are running whenever a drain begins
        caller = current_caller()
        return StringValue(value=f"{caller.subject} in {caller.workspace}")

    def add(servicer: Any, server: Any) -> None:
        handler = grpc.unary_unary_rpc_method_handler(
            get, StringValue.FromString, StringValue.SerializeToString
        )
        server.add_registered_method_handlers("test.v1.Echo", {"Get": handler})

    return Service(
        servicers=[Served(add, None, type("Echo", (), {"full_name": "test.v1.Echo"}))],
        table=AuthorizationTable({"/test.v1.Echo/Get": Rule(min_role=Role.VIEWER)}),
        ports={"extra": "127.0.0.1:1"},
    )


if __name__ == "__main__":
    name = sys.argv[1]
    run_service(name, TestSettings, {"auth": build_auth, "storage": build_storage}[name])
