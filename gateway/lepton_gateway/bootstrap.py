"""Puts the gateway into the mesh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lepton.api.auth.v1 import auth_pb2, auth_pb2_grpc
from lepton_gateway.config import GatewaySettings
from lepton_gateway.exchange import IssuedToken
from lepton_gateway.gateway import Gateway
from lepton_gateway.signing_keys import Jwks
from lepton_mesh.authorization import AuthorizationTable
from lepton_mesh.caller import acting_as_service
from lepton_mesh.process import Service
from lepton_mesh.runtime import MeshRuntime

if TYPE_CHECKING:
    from lepton_mesh.interceptors.client import MeshChannel

PUBLIC_PORT = "public"
"""The users' listener in the gateway's instance record; ``address`` is its place in the mesh."""
_TIMEOUT_SECONDS = 5.0


async def build(runtime: MeshRuntime, settings: GatewaySettings) -> Service:
    """The gateway serves no RPC of its own in the mesh but health and reflection."""
    auth = AuthClient(runtime.channel("auth"))
    gateway = Gateway(
        settings, runtime.directory, runtime.identity, auth.signing_keys, auth.issue_token
    )
    runtime.identity.on_rotate(gateway.certificate_changed)
    return Service(
        servicers=[],
        table=AuthorizationTable({}),
        start=gateway.start,
        take_health=gateway.take_health,
        close=gateway.close,
        ports={PUBLIC_PORT: gateway.address},
    )


class AuthClient:
    """What the gateway asks the auth service, on its own behalf."""

    def __init__(self, channel: MeshChannel) -> None:
        self._stub: Any = auth_pb2_grpc.AuthServiceStub(channel)

    async def signing_keys(self) -> Jwks:
        """The JWKS as RFC 7517 has it."""
        with acting_as_service(""):
            answer: auth_pb2.Jwks = await self._stub.GetJwks(
                auth_pb2.GetJwksRequest(), timeout=_TIMEOUT_SECONDS
            )
        names = ("kty", "crv", "kid", "use", "alg", "x", "y")
        return {"keys": [{name: getattr(key, name) for name in names} for key in answer.keys]}

    async def issue_token(self, api_key: str) -> IssuedToken:
        """Exchanges an API key; raises what the auth service answers."""
        with acting_as_service(""):
            answer: auth_pb2.IssueTokenResponse = await self._stub.IssueToken(
                auth_pb2.IssueTokenRequest(api_key=api_key), timeout=_TIMEOUT_SECONDS
            )
        return IssuedToken(answer.access_token, answer.expire_time.ToSeconds())
