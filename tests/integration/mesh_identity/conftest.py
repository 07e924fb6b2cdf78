"""An auth service's certificate half and an echo service, over real TLS."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue

from lepton.api.auth.v1 import auth_pb2, auth_pb2_grpc
from lepton_auth.adapters.signing_keys import FileSigningKeys
from lepton_auth.adapters.sql import SqlStore
from lepton_auth.audit import Auditor
from lepton_auth.certificate_servicer import JOIN_TABLE, TABLE, CertificateServicer
from lepton_auth.certificates import Certificates, own_renewer
from lepton_auth.joining import Joining
from lepton_auth.tokens import TokenMint
from lepton_mesh.authorization import AuthorizationTable, Rule
from lepton_mesh.caller import Caller
from lepton_mesh.database import Database
from lepton_mesh.discovery import Instance
from lepton_mesh.identity import Renewer, WorkloadIdentity
from lepton_mesh.interceptors.server import server_interceptors
from lepton_mesh.peers import Denylist, PeerCheck, peer_certificate
from lepton_mesh.pki import CertificateAuthority, Names
from lepton_mesh.server import MeshServer, Served
from lepton_mesh.spiffe import SpiffeId
from lepton_mesh.telemetry import Telemetry
from lepton_mesh.tls import open_server_credentials, server_credentials
from lepton_mesh.tokens import TokenVerifier

TRUST_DOMAIN = "lepton.test"
ECHO = "/test.v1.Echo/Get"
OPERATOR = Caller("service", subject="services/supervisor", workspace="default")
MakeIdentity = Callable[..., WorkloadIdentity]


@pytest.fixture(scope="session")
def authority() -> CertificateAuthority:
    return CertificateAuthority.create_root(TRUST_DOMAIN).create_intermediate()


def renewer_of(
    authority: CertificateAuthority, spiffe_id: SpiffeId, seconds: float = 600
) -> Renewer:
    return own_renewer(authority, Names(spiffe_id), timedelta(seconds=seconds))


@pytest.fixture
def make_identity(authority: CertificateAuthority, tmp_path: Path) -> MakeIdentity:
    """An identity of a service, issued here and now."""

    def make(
        service: str,
        seconds: float = 600,
        by: CertificateAuthority = authority,
        trust_domain: str = TRUST_DOMAIN,
    ) -> WorkloadIdentity:
        spiffe_id = SpiffeId.for_service(trust_domain, service)
        credentials = by.issue_credentials(Names(spiffe_id), timedelta(seconds=seconds))
        return WorkloadIdentity(spiffe_id, tmp_path / service / "identity", credentials)

    return make


@dataclass
class Serving:
    """Servers of one process, as run_service would start them."""

    denylist: Denylist = field(default_factory=Denylist)
    servers: list[MeshServer] = field(default_factory=list)

    async def listen(
        self, served: Served, table: AuthorizationTable, credentials: grpc.ServerCredentials
    ) -> str:
        async def no_keys() -> Sequence[dict[str, str]]:
            return []

        interceptors = server_interceptors(
            Telemetry("test", "test-1"),
            PeerCheck(TRUST_DOMAIN, self.denylist),
            TokenVerifier(no_keys),
            64,
        )
        server = MeshServer([served], table, interceptors)
        address = server.listen("127.0.0.1", 0, credentials)
        await server.start()
        self.servers.append(server)
        return address

    async def close(self) -> None:
        await asyncio.gather(*(server.drain(0) for server in self.servers))


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    serving = Serving()
    yield serving
    await serving.close()


async def serve_echo(serving: Serving, identity: WorkloadIdentity) -> str:
    """Serves what answers with the serial of its caller's certificate; returns the address."""

    async def get(request: StringValue, context: Any) -> StringValue:
        peer = peer_certificate(context.auth_context())
        assert peer is not None
        return StringValue(value=peer.serial)

    def add(_: Any, server: Any) -> None:
        handler = grpc.unary_unary_rpc_method_handler(
            get, StringValue.FromString, StringValue.SerializeToString
        )
        server.add_registered_method_handlers("test.v1.Echo", {"Get": handler})

    served = Served(add, None, type("Echo", (), {"full_name": "test.v1.Echo"}))
    table = AuthorizationTable({ECHO: Rule(peers=True)})
    return await serving.listen(served, table, server_credentials(identity))


async def call_echo(channel: grpc.aio.Channel, seconds: float = 5) -> str:
    method = channel.unary_unary(
        ECHO,
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )
    answer: StringValue = await method(StringValue(), timeout=seconds)
    return answer.value


class OneInstance:
    """A directory that knows one instance of everything."""

    def __init__(self, address: str) -> None:
        self._address = address

    def instances(self, service: str) -> tuple[Instance, ...]:
        return (Instance(service=service, instance=f"{service}-1", address=self._address),)

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        return lambda: None


class Auth:
    """The certificate half of the auth service, on its two ports."""

    def __init__(
        self, authority: CertificateAuthority, database: Database, directory: Path
    ) -> None:
        self.authority = authority
        self.later = timedelta()
        """Added to the service's clock."""
        self.store = SqlStore(database)
        auditor = Auditor(self.store, self.now, lambda: "")
        self.certificates = Certificates(
            authority, self.store, auditor, self.now, timedelta(minutes=10)
        )
        self.joining = Joining(self.certificates, self.store, auditor, self.now, TRUST_DOMAIN)
        keys = FileSigningKeys(
            directory / "keys.json",
            self.now,
            rotate_after=timedelta(days=30),
            publish_before=timedelta(days=1),
            longest_token=timedelta(days=7),
        )
        mint = TokenMint(keys, self.now, timedelta(minutes=15))
        self.servicer = CertificateServicer(self.certificates, self.joining, mint)
        self.address = ""
        self.join_address = ""

    def now(self) -> datetime:
        return datetime.now(UTC) + self.later

    async def serve(self, serving: Serving, identity: WorkloadIdentity) -> None:
        served = Served(
            auth_pb2_grpc.add_CertificateServiceServicer_to_server,
            self.servicer,
            auth_pb2.DESCRIPTOR.services_by_name["CertificateService"],
        )
        self.address = await serving.listen(served, TABLE, server_credentials(identity))
        self.join_address = await serving.listen(
            served, JOIN_TABLE, open_server_credentials(identity)
        )

    async def token(self, service: str = "storage", **options: Any) -> str:
        return (await self.joining.create_service_token(OPERATOR, service, **options)).text


@pytest.fixture
async def auth(
    authority: CertificateAuthority, serving: Serving, make_identity: MakeIdentity, tmp_path: Path
) -> AsyncIterator[Auth]:
    url = f"sqlite:///{tmp_path / 'auth.db'}"
    database = await asyncio.to_thread(Database.open, url, "lepton_auth.migrations")
    auth = Auth(authority, database, tmp_path)
    await auth.serve(serving, make_identity("auth"))
    yield auth
    await asyncio.to_thread(database.close)
