"""Servers of the mesh in this process: real TLS, real interceptors, an authority of the test's."""

from __future__ import annotations

import base64
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import descriptor_pb2, descriptor_pool, wrappers_pb2
from google.protobuf.wrappers_pb2 import StringValue

from lepton_mesh.authorization import AuthorizationTable, Rule
from lepton_mesh.caller import Role
from lepton_mesh.claims import ALGORITHM, Claims, to_payload
from lepton_mesh.interceptors.client import MeshChannel
from lepton_mesh.interceptors.server import server_interceptors
from lepton_mesh.peers import Denylist, PeerCheck
from lepton_mesh.pki import CertificateAuthority, Credentials, Names, PrivateKey, serial_hex
from lepton_mesh.server import MeshServer, Served
from lepton_mesh.spiffe import SpiffeId
from lepton_mesh.telemetry import Telemetry
from lepton_mesh.tls import client_channel, open_server_credentials, server_credentials
from lepton_mesh.tokens import TokenVerifier

TRUST_DOMAIN = "test.local"
ECHO = "lepton.test.v1.EchoService"
ARITIES = {
    "UnaryUnary": (False, False),
    "UnaryStream": (False, True),
    "StreamUnary": (True, False),
    "StreamStream": (True, True),
}


def _echo_descriptor() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="lepton/test/v1/echo.proto",
        package="lepton.test.v1",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
        syntax="proto3",
    )
    service = file.service.add(name="EchoService")
    for name, (client, server) in ARITIES.items():
        service.method.add(
            name=name,
            input_type=".google.protobuf.StringValue",
            output_type=".google.protobuf.StringValue",
            client_streaming=client,
            server_streaming=server,
        )
    pool = descriptor_pool.Default()
    pool.Add(file)
    return pool.FindServiceByName(ECHO)


ECHO_DESCRIPTOR = _echo_descriptor()

Behavior = Callable[[str], Any]
"""Is given each request's text (joined, for streams of requests); its result is the answer."""


def echo(behavior: Behavior) -> Served:
    """The echo service: every arity awaits ``behavior`` once for each response."""

    async def unary_unary(request: StringValue, context: Any) -> StringValue:
        return StringValue(value=str(await behavior(request.value)))

    async def unary_stream(request: StringValue, context: Any) -> AsyncIterator[StringValue]:
        yield StringValue(value="first")
        yield StringValue(value=str(await behavior(request.value)))

    async def stream_unary(requests: AsyncIterator[StringValue], context: Any) -> StringValue:
        text = ",".join([request.value async for request in requests])
        return StringValue(value=str(await behavior(text)))

    async def stream_stream(
        requests: AsyncIterator[StringValue], context: Any
    ) -> AsyncIterator[StringValue]:
        async for request in requests:
            yield StringValue(value=str(await behavior(request.value)))

    methods = {
        "UnaryUnary": grpc.unary_unary_rpc_method_handler(unary_unary, *CODEC),
        "UnaryStream": grpc.unary_stream_rpc_method_handler(unary_stream, *CODEC),
        "StreamUnary": grpc.stream_unary_rpc_method_handler(stream_unary, *CODEC),
        "StreamStream": grpc.stream_stream_rpc_method_handler(stream_stream, *CODEC),
    }
    return Served(
        lambda servicer, server: server.add_registered_method_handlers(ECHO, methods),
        None,
        ECHO_DESCRIPTOR,
    )


CODEC = (StringValue.FromString, StringValue.SerializeToString)


class EchoStub:
    """What a generated stub of the echo service would be."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        serialize, parse = StringValue.SerializeToString, StringValue.FromString
        self.unary_unary: Any = channel.unary_unary(f"/{ECHO}/UnaryUnary", serialize, parse)
        self.unary_stream: Any = channel.unary_stream(f"/{ECHO}/UnaryStream", serialize, parse)
        self.stream_unary: Any = channel.stream_unary(f"/{ECHO}/StreamUnary", serialize, parse)
        self.stream_stream: Any = channel.stream_stream(f"/{ECHO}/StreamStream", serialize, parse)

    async def call(self, arity: str, text: str, **options: Any) -> list[str]:
        """Calls one arity with one request; the texts of its responses."""
        request = StringValue(value=text)
        if arity == "UnaryUnary":
            return [(await self.unary_unary(request, **options)).value]
        if arity == "UnaryStream":
            return [one.value async for one in self.unary_stream(request, **options)]
        if arity == "StreamUnary":
            return [(await self.stream_unary(iter([request]), **options)).value]
        return [one.value async for one in self.stream_stream(iter([request]), **options)]


@dataclass
class Holder:
    """What TLS needs of an identity."""

    credentials: Credentials


@dataclass
class Running:
    server: MeshServer
    address: str
    telemetry: Telemetry
    denylist: Denylist


class Mesh:
    """An authority, a token signer, and servers that end with the test."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.authority = CertificateAuthority.create_root(TRUST_DOMAIN).create_intermediate()
        self.signing_key = ec.generate_private_key(ec.SECP256R1())
        self.signing_kid = "k1"
        self.verifier = TokenVerifier(self.keys)
        self.fetched = 0
        self._stack = stack
        self._numbers = itertools.count()

    async def keys(self) -> Sequence[dict[str, str]]:
        self.fetched += 1
        return [jwk(self.signing_key, self.signing_kid)]

    def identity(
        self, name: str | SpiffeId, ttl: timedelta = timedelta(hours=1), domain: str = TRUST_DOMAIN
    ) -> Holder:
        spiffe_id = name if isinstance(name, SpiffeId) else SpiffeId.for_service(domain, name)
        return Holder(self.authority.issue_credentials(Names(spiffe_id), ttl))

    def foreign_identity(self, name: str) -> Holder:
        """A certificate of another authority, that trusts this one."""
        other = CertificateAuthority.create_root(TRUST_DOMAIN).create_intermediate()
        issued = other.issue_credentials(Names(SpiffeId.for_service(TRUST_DOMAIN, name)))
        return Holder(replace(issued, trust_bundle_pem=self.authority.trust_bundle_pem))

    def token(
        self,
        subject: str = "users/ada",
        role: Role = Role.DEVELOPER,
        *,
        kind: Any = "user",
        workspace: str = "lab",
        life: float = 600,
        key: PrivateKey | None = None,
        kid: str = "k1",
        reads: Iterable[str] = (),
        **overrides: Any,
    ) -> str:
        now = int(time.time())
        claims = Claims(
            subject=subject,
            kind=kind,
            workspace=workspace,
            role=role,
            expires=int(now + life),
            reads=frozenset(reads),
            token_id=str(next(self._numbers)),
        )
        payload = to_payload(claims, issued=now) | overrides
        return jwt.encode(payload, key or self.signing_key, ALGORITHM, headers={"kid": kid})

    async def serve(
        self,
        behavior: Behavior,
        rule: Rule,
        *,
        name: str = "storage",
        limit: int = 100,
        table: AuthorizationTable | None = None,
        mutual: bool = True,
        telemetry: Telemetry | None = None,
    ) -> Running:
        telemetry = telemetry or Telemetry(name)
        denylist = Denylist()
        check = PeerCheck(TRUST_DOMAIN, denylist)
        server = MeshServer(
            [echo(behavior)],
            table or AuthorizationTable({f"/{ECHO}/{arity}": rule for arity in ARITIES}),
            server_interceptors(telemetry, check, self.verifier, limit),
            open_to_anyone=not mutual,
        )
        credentials = server_credentials if mutual else open_server_credentials
        address = server.listen("127.0.0.1", 0, credentials(self.identity(name)))
        await server.start()
        self._stack.push_async_callback(server.drain, 0.0)
        return Running(server, address, telemetry, denylist)

    def raw(self, running: Running, peer: Holder | None = None) -> grpc.aio.Channel:
        """A channel as ``peer`` (default the gateway), without client interceptors."""
        channel = client_channel(running.address, peer or self.identity("gateway"), "storage")
        self._stack.push_async_callback(channel.close)
        return channel

    def channel(self, running: Running, peer: Holder | None = None) -> MeshChannel:
        return MeshChannel(self.raw(running, peer), "storage", Telemetry("client"))

    def stub(self, running: Running, peer: Holder | None = None) -> EchoStub:
        return EchoStub(self.channel(running, peer))

    def revoke(self, running: Running, peer: Holder) -> None:
        running.denylist.replace([serial_hex(peer.credentials.leaf)])


def jwk(key: PrivateKey, kid: str) -> dict[str, str]:
    numbers = key.public_key().public_numbers()
    x, y = (
        base64.urlsafe_b64encode(number.to_bytes(32)).rstrip(b"=").decode()
        for number in (numbers.x, numbers.y)
    )
    return {"kid": kid, "crv": "P-256", "x": x, "y": y}


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture
def echo_descriptor() -> Any:
    return ECHO_DESCRIPTOR


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with AsyncExitStack() as stack:
        yield Mesh(stack)
