"""A real Envoy with real TLS in front of small real services; only etcd is left out."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import ipaddress
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.protobuf import timestamp_pb2
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from lepton.api.auth.v1 import auth_pb2, auth_pb2_grpc
from lepton.api.storage.v1 import storage_pb2, storage_pb2_grpc
from lepton.api.training.v1 import training_pb2, training_pb2_grpc
from lepton_gateway.config import GatewaySettings
from lepton_gateway.exchange import IssuedToken
from lepton_gateway.gateway import Gateway
from lepton_mesh.discovery import Instance
from lepton_mesh.errors import Unauthenticated, Unavailable

TRUST_DOMAIN = "lepton.local"


def api_key(name: str) -> str:
    """A well-formed key of that name."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"lpk_{digest[:16]}_{digest[:43]}"


GOOD_KEY = api_key("good")
"""One that the auth service knows."""


class Authority:
    """A root that issues certificates with the names the mesh uses."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])
        self._certificate = (
            self._builder(name, name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.root_pem = self._certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, service: str, *, dns: Iterable[str] = (), ips: Iterable[str] = ()) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        sans: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/svc/{service}"),
            x509.DNSName(f"{service}.lepton.internal"),
            *(x509.DNSName(name) for name in dns),
            *(x509.IPAddress(ipaddress.ip_address(ip)) for ip in ips),
        ]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, service)])
        certificate = (
            self._builder(subject, self._certificate.subject, key.public_key())
            .add_extension(x509.SubjectAlternativeName(sans), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return Identity(
            certificate.public_bytes(serialization.Encoding.PEM),
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
            self.root_pem,
            certificate.serial_number,
        )

    @staticmethod
    def _builder(
        subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )


@dataclass
class Identity:
    certificate_chain_pem: bytes
    private_key_pem: bytes
    trust_bundle_pem: bytes
    serial: int


class SigningKey:
    """An ES256 key as the auth service has one."""

    def __init__(self, kid: str) -> None:
        self.kid = kid
        self._key = ec.generate_private_key(ec.SECP256R1())

    def jwk(self) -> dict[str, str]:
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self._key.public_key()))
        return {**public, "kid": self.kid, "use": "sig", "alg": "ES256"}

    def token(self, **changes: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": "lepton",
            "aud": "lepton",
            "sub": "users/ada",
            "kind": "user",
            "ws": "default",
            "role": "developer",
            "iat": now,
            "exp": now + 600,
        }
        claims = {k: v for k, v in {**claims, **changes}.items() if v is not None}
        return jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self.kid})


class View:
    """A directory that the test changes."""

    def __init__(self) -> None:
        self._instances: dict[str, dict[str, Instance]] = {}
        self._callbacks: list[Callable[[str], None]] = []

    def instances(self, service: str) -> list[Instance]:
        return list(self._instances.get(service, {}).values())

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def add(self, instance: Instance) -> None:
        self._instances.setdefault(instance.service, {})[instance.instance] = instance
        self._notify(instance.service)

    def remove(self, service: str, name: str) -> None:
        del self._instances[service][name]
        self._notify(service)

    def _notify(self, service: str) -> None:
        for callback in list(self._callbacks):
            callback(service)


@dataclass
class Seen:
    """What the services saw."""

    metadata: list[dict[str, str]] = field(default_factory=list)
    calls: dict[str, int] = field(default_factory=dict)
    peer_serials: set[int] = field(default_factory=set)

    def note(self, instance: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self.metadata.append({k: str(v) for k, v in context.invocation_metadata() or ()})
        self.calls[instance] = self.calls.get(instance, 0) + 1
        pem = context.auth_context()["x509_pem_cert"][0]
        self.peer_serials.add(x509.load_pem_x509_certificate(pem).serial_number)


async def abort(
    context: grpc.aio.ServicerContext[Any, Any], code: grpc.StatusCode, reason: str, message: str
) -> None:
    info = AnyMessage()
    info.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="lepton.dev"))
    status = status_pb2.Status(code=code.value[0], message=message, details=[info])
    await context.abort_with_status(rpc_status.to_status(status))


class AuthServicer(auth_pb2_grpc.AuthServiceServicer):
    def __init__(self, keys: list[SigningKey], seen: Seen) -> None:
        self.keys = keys
        self.seen = seen
        self.exchanges = 0
        self.known = {GOOD_KEY}
        self.gate = asyncio.Event()
        """While it is closed, credentials that are not known wait for their refusal."""
        self.gate.set()

    async def IssueToken(self, request: Any, context: Any) -> Any:
        self.seen.note("auth", context)
        if request.api_key not in self.known and request.password.password != "correct horse":
            await self.gate.wait()
            await abort(context, grpc.StatusCode.UNAUTHENTICATED, "CREDENTIAL_INVALID", "not known")
        self.exchanges += 1
        expires = int(time.time()) + 900
        return auth_pb2.IssueTokenResponse(
            access_token=self.keys[-1].token(exp=expires, sub="users/key"),
            expire_time=timestamp_pb2.Timestamp(seconds=expires),
        )

    async def GetJwks(self, request: Any, context: Any) -> Any:
        return auth_pb2.Jwks(keys=[auth_pb2.JsonWebKey(**key.jwk()) for key in self.keys])

    async def GetCaller(self, request: Any, context: Any) -> Any:
        self.seen.note("auth", context)
        return auth_pb2.CallerInfo(subject="users/ada", workspace="workspaces/default")


class DatasetServicer(storage_pb2_grpc.StorageServiceServicer):
    def __init__(self, instance: str, seen: Seen, release: asyncio.Event) -> None:
        self.instance = instance
        self.seen = seen
        self.release = release

    async def GetDataset(self, request: Any, context: Any) -> Any:
        self.seen.note(self.instance, context)
        if request.name == "datasets/slow":
            await self.release.wait()
        if request.name == "datasets/missing":
            await abort(
                context, grpc.StatusCode.NOT_FOUND, "DATASET_NOT_FOUND", "dataset 'missing'"
            )
        return storage_pb2.Dataset(name=request.name)

    async def CreateDataset(self, request: Any, context: Any) -> Any:
        self.seen.note(self.instance, context)
        return storage_pb2.Dataset(name=f"datasets/{request.dataset_id}")


class TrainingServicer(training_pb2_grpc.TrainingServiceServicer):
    async def StreamLogs(self, request: Any, context: Any) -> AsyncIterator[Any]:
        for number in range(3):
            yield training_pb2.LogLine(text=f"line {number}")


class OpenInference(grpc.GenericRpcHandler):
    """Echoes bytes under both names of the Open Inference service."""

    def __init__(self, instance: str, seen: Seen) -> None:
        self.instance = instance
        self.seen = seen

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if "GRPCInferenceService" not in details.method:
            return None

        async def echo(request: bytes, context: Any) -> bytes:
            self.seen.note(self.instance, context)
            return request

        return grpc.unary_unary_rpc_method_handler(echo)


class World:
    """The gateway and what lies behind it."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.authority = Authority()
        self.view = View()
        self.seen = Seen()
        self.key = SigningKey("first")
        self.auth = AuthServicer([self.key], self.seen)
        self.identity = self.gateway_identity()
        self.servers: dict[str, grpc.aio.Server] = {}
        self.gateway: Gateway | None = None
        self.release = asyncio.Event()
        """Until it is set, the answer about `datasets/slow` does not come."""

    def gateway_identity(self) -> Identity:
        return self.authority.issue("gateway", dns=["localhost"], ips=["127.0.0.1"])

    async def serve(
        self, service: str, name: str, port_name: str = "", identity: Identity | None = None
    ) -> Instance:
        """Starts an instance and registers it."""
        server = grpc.aio.server(
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 << 20)]
        )
        if service == "auth":
            auth_pb2_grpc.add_AuthServiceServicer_to_server(self.auth, server)
        elif service == "storage":
            servicer = DatasetServicer(name, self.seen, self.release)
            storage_pb2_grpc.add_StorageServiceServicer_to_server(servicer, server)
        elif service == "training":
            training_pb2_grpc.add_TrainingServiceServicer_to_server(TrainingServicer(), server)
        else:
            server.add_generic_rpc_handlers((OpenInference(name, self.seen),))
        own = identity or self.authority.issue(service)
        credentials = grpc.ssl_server_credentials(
            [(own.private_key_pem, own.certificate_chain_pem)],
            root_certificates=self.authority.root_pem,
            require_client_auth=True,
        )
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        self.servers[name] = server
        address = f"127.0.0.1:{port}"
        instance = Instance(
            service=service,
            instance=name,
            address=address,
            ports={port_name: address} if port_name else {},
        )
        self.view.add(instance)
        return instance

    def settings(self, **changes: Any) -> GatewaySettings:
        return GatewaySettings(
            state_dir=self.state_dir,
            **{
                "gateway_port": 0,
                "jwks_refresh_seconds": 0.05,
                "drain_grace_seconds": 0.5,
                "gateway_workers": 1,
                **changes,
            },
        )

    def make_gateway(self, **changes: Any) -> Gateway:
        return Gateway(
            self.settings(**changes), self.view, self.identity, self.fetch_keys, self.issue_token
        )

    async def start_gateway(self, **changes: Any) -> Gateway:
        self.gateway = self.make_gateway(**changes)
        await self.gateway.start()
        return self.gateway

    async def fetch_keys(self) -> dict[str, Any]:
        if not self.view.instances("auth"):
            raise ConnectionError("no instance of auth")
        return {"keys": [key.jwk() for key in self.auth.keys]}

    async def issue_token(self, api_key: str) -> IssuedToken:
        if not self.view.instances("auth"):
            raise Unavailable("no instance of auth")
        identity = self.authority.issue("gateway")
        credentials = grpc.ssl_channel_credentials(
            self.authority.root_pem, identity.private_key_pem, identity.certificate_chain_pem
        )
        async with grpc.aio.secure_channel(
            self.view.instances("auth")[0].address,
            credentials,
            options=[("grpc.ssl_target_name_override", "auth.lepton.internal")],
        ) as channel:
            stub = auth_pb2_grpc.AuthServiceStub(channel)
            try:
                answer = await stub.IssueToken(auth_pb2.IssueTokenRequest(api_key=api_key))
            except grpc.aio.AioRpcError as error:
                raise Unauthenticated(error.details() or "") from error
            return IssuedToken(answer.access_token, answer.expire_time.seconds)

    @property
    def address(self) -> str:
        assert self.gateway is not None
        return self.gateway.address

    def channel(self) -> grpc.aio.Channel:
        """As a user's client: TLS to the gateway, no certificate."""
        return grpc.aio.secure_channel(
            self.address,
            grpc.ssl_channel_credentials(self.authority.root_pem),
            options=[("grpc.max_receive_message_length", 64 << 20)],
        )

    def http(self, local_address: str = "127.0.0.1") -> httpx.AsyncClient:
        context = ssl.create_default_context(cadata=self.authority.root_pem.decode())
        transport = httpx.AsyncHTTPTransport(verify=context, local_address=local_address)
        return httpx.AsyncClient(base_url=f"https://{self.address}", transport=transport)

    def bearer(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key.token()}"}

    async def close(self) -> None:
        if self.gateway is not None:
            await self.gateway.close()
        await asyncio.gather(*(server.stop(0) for server in self.servers.values()))


async def eventually(world: World, path: str, status: int, **headers: str) -> httpx.Response:
    """Asks until the answer has ``status``: Envoy takes new files over when inotify tells it."""
    async with world.http() as client, asyncio.timeout(10):
        while True:
            response = await client.get(path, headers=headers)
            if response.status_code == status:
                return response
            await asyncio.sleep(0.01)


async def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Waits for what tells nobody when it happens."""
    async with asyncio.timeout(seconds):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)
