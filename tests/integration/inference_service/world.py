"""The inference service as it runs, with a real etcd; auth, registry and storage are small."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import socket
import ssl
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from lepton.api.auth.v1 import auth_pb2, auth_pb2_grpc
from lepton.api.inference.v1 import inference_pb2, inference_pb2_grpc
from lepton.api.registry.v1 import registry_pb2, registry_pb2_grpc
from lepton.api.storage.v1 import storage_pb2, storage_pb2_grpc
from lepton_local.etcd import provision_auth
from lepton_local.tls_files import TlsFiles
from lepton_mesh import credential_files
from lepton_mesh.authorization import AuthorizationTable, Rule
from lepton_mesh.caller import Role, current_caller
from lepton_mesh.claims import ALGORITHM, Claims, to_payload
from lepton_mesh.config import MeshSettings
from lepton_mesh.discovery import Instance
from lepton_mesh.errors import NotFound
from lepton_mesh.etcd import EtcdClient
from lepton_mesh.pki import CertificateAuthority, Names
from lepton_mesh.process import Service, serve
from lepton_mesh.runtime import MeshRuntime
from lepton_mesh.server import Served
from lepton_mesh.spiffe import SpiffeId
from lepton_mesh.tls import connector
from tests.etcd_server import EtcdServer

WORKSPACE = "lab"
SERVICES = ("auth", "registry", "storage", "inference", "gateway")


class VersionUnknown(NotFound):
    reason = "TEST_VERSION_UNKNOWN"


class Models(registry_pb2_grpc.RegistryServiceServicer, storage_pb2_grpc.StorageServiceServicer):
    """A registry and a storage that hold what a test puts into them."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}
        self.registered: dict[str, registry_pb2.ModelVersion] = {}
        self.reads = 0
        self.readers: list[str] = []
        self.askers: list[str] = []
        """For whom the registry was asked."""

    def register(self, name: str, content: bytes, sha256: str = "") -> str:
        """Registers ``content`` as ``models/<name>``; a lying digest may be given."""
        artifact = f"artifacts/{name.replace('/', '-')}"
        self.content[artifact] = content
        self.registered[f"models/{name}"] = registry_pb2.ModelVersion(
            name=f"models/{name}",
            artifact=artifact,
            sha256=sha256 or hashlib.sha256(content).hexdigest(),
        )
        return f"models/{name}"

    async def GetModelVersion(self, request: Any, context: Any) -> registry_pb2.ModelVersion:
        self.askers.append(current_caller().subject)
        found = self.registered.get(request.name)
        if found is None:
            raise VersionUnknown(f"'{request.name}' does not exist", name=request.name)
        return found

    async def ListModels(self, request: Any, context: Any) -> registry_pb2.ListModelsResponse:
        self.askers.append(current_caller().subject)
        newest = {name.rpartition("/versions/")[0]: name for name in self.registered}
        return registry_pb2.ListModelsResponse(
            models=[
                registry_pb2.Model(name=name, latest_version=version)
                for name, version in newest.items()
            ]
        )

    async def ReadArtifact(
        self, request: Any, context: Any
    ) -> AsyncIterator[storage_pb2.DataChunk]:
        self.reads += 1
        self.readers.append(f"{current_caller().subject} in {current_caller().workspace}")
        content = self.content[request.name]
        for start in range(0, len(content), 1 << 16):
            data = content[start : start + (1 << 16)]
            yield storage_pb2.DataChunk(offset=start, data=data, crc32=zlib.crc32(data))


class World:
    """An etcd, an authority, the small services, and inference processes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models = Models()
        self.authority = CertificateAuthority.create_root("lepton.local").create_intermediate()
        directory = self.identity("etcd")
        files = TlsFiles.of(directory)
        self.etcd = EtcdServer(None, root / "etcd", files)
        self.signing_key = ec.generate_private_key(ec.SECP256R1())
        self.revoked: list[str] = []
        """Serials that auth lists as revoked; what a process fetches when it starts."""
        self.processes: list[subprocess.Popen[bytes]] = []
        self._stack = AsyncExitStack()
        self._stop = asyncio.Event()
        self.gateway: MeshRuntime

    def identity(self, service: str, authority: CertificateAuthority | None = None) -> Path:
        """A directory with a certificate for ``service``."""
        directory = self.root / f"identity-{service}"
        if authority is not None:
            directory = directory.with_name(directory.name + "-foreign")
        if not directory.exists():
            names = Names(
                SpiffeId.for_service("lepton.local", service), ip_addresses=("127.0.0.1",)
            )
            issuer = authority or self.authority
            credential_files.save(directory, issuer.issue_credentials(names))
        return directory

    def renew(self, service: str) -> None:
        """Replaces the files of a service's identity, as a renewal does."""
        names = Names(SpiffeId.for_service("lepton.local", service), ip_addresses=("127.0.0.1",))
        credential_files.save(self.identity(service), self.authority.issue_credentials(names))

    def certificate_of(self, address: str) -> bytes | None:
        """The certificate that the data port presents to the gateway."""
        directory = self.identity("gateway")
        context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
        host, port = address.split(":")
        with (
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="inference.lepton.internal") as secure,
        ):
            return secure.getpeercert(binary_form=True)

    def settings(self, service: str) -> dict[str, str]:
        return {
            "LEPTON_STATE_DIR": str(self.root / service),
            "LEPTON_IDENTITY_DIR": str(self.identity(service)),
            "LEPTON_ETCD_ENDPOINTS": self.etcd.address,
            "LEPTON_METRICS_PORT": "0" if service == "inference" else "-1",
            "LEPTON_DRAIN_GRACE_SECONDS": "5" if service == "inference" else "0",
        }

    async def start(self) -> None:
        """Starts etcd and the small services, and joins as the gateway."""
        self.etcd.start()
        holder = type("Holder", (), {})()
        holder.credentials = credential_files.load(self.identity("supervisor"))
        client = EtcdClient([self.etcd.address], connector(holder, "etcd"))
        await provision_auth(client, SERVICES)
        await client.close()
        await self._small("auth", auth_pb2.DESCRIPTOR, auth_pb2_grpc, "AuthService", _Auth())
        await self._small(
            "registry", registry_pb2.DESCRIPTOR, registry_pb2_grpc, "RegistryService", self.models
        )
        await self._small(
            "storage", storage_pb2.DESCRIPTOR, storage_pb2_grpc, "StorageService", self.models
        )
        self.gateway = await self._open("gateway")

    async def close(self) -> None:
        """Ends everything that this world started."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self._stop.set()
        await self._stack.aclose()
        self.etcd.kill()

    def run_inference(self, **extra: str) -> subprocess.Popen[bytes]:
        """Starts ``python -m lepton_inference``; its log goes to ``inference.log``."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith("LEPTON_")}
        with (self.root / "inference.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "lepton_inference"],
                env=clean | self.settings("inference") | extra,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def log(self) -> str:
        """What the inference processes have written."""
        return (self.root / "inference.log").read_text()

    async def instance(self, but: str = "") -> Instance:
        """The record of the inference instance that is not ``but``, once there is one."""
        changed = asyncio.Event()
        end = self.gateway.directory.subscribe(lambda _: changed.set())
        try:
            async with asyncio.timeout(30):
                while True:
                    changed.clear()
                    for one in self.gateway.directory.instances("inference"):
                        if one.instance != but:
                            return one
                    # A process that has ended will not register.
                    assert self.processes[-1].poll() is None, self.log()
                    await asyncio.wait([asyncio.create_task(changed.wait())], timeout=0.5)
        except TimeoutError:
            raise AssertionError(f"inference did not register\n{self.log()}") from None
        finally:
            end()

    async def gone(self) -> None:
        """Returns once no inference instance is on record."""
        changed = asyncio.Event()
        end = self.gateway.directory.subscribe(lambda _: changed.set())
        async with asyncio.timeout(30):
            while self.gateway.directory.instances("inference"):
                await changed.wait()
                changed.clear()
        end()

    def token(
        self, role: Role = Role.DEVELOPER, workspace: str = WORKSPACE, life: int = 600
    ) -> str:
        """A user's token as the auth service would sign it."""
        now = int(time.time())
        claims = Claims("users/ada", "user", workspace, role, expires=now + life)
        payload = to_payload(claims, issued=now)
        return jwt.encode(payload, self.signing_key, ALGORITHM, headers={"kid": "k1"})

    def bearer(self, **claims: Any) -> tuple[tuple[str, str]]:
        """gRPC metadata with such a token."""
        return (("authorization", f"Bearer {self.token(**claims)}"),)

    def management(self) -> inference_pb2_grpc.InferenceServiceStub:
        """The management API, through the mesh; reads outlive an instance that was killed."""
        reads = {
            f"/lepton.api.inference.v1.InferenceService/{name}"
            for name in ("GetEndpoint", "WatchEndpoint")
        }
        return inference_pb2_grpc.InferenceServiceStub(
            self.gateway.channel("inference", idempotent=reads)
        )

    async def endpoint_in_state(self, name: str, state: str) -> inference_pb2.Endpoint:
        """Watches the endpoint until it is in that state, or FAILED."""
        watch = self.management().WatchEndpoint(
            inference_pb2.WatchEndpointRequest(name=name), metadata=self.bearer(), timeout=30
        )
        async for endpoint in watch:
            found = inference_pb2.Endpoint.State.Name(endpoint.state)
            if found in (state, "FAILED"):
                assert found == state, endpoint.failure_message
                return endpoint
        raise AssertionError(f"the watch ended\n{self.log()}")

    def channel(self, address: str, identity: Path | None = None) -> grpc.aio.Channel:
        """A channel to the data port, by default as the gateway."""
        directory = identity or self.identity("gateway")
        credentials = grpc.ssl_channel_credentials(
            (self.identity("gateway") / "ca.pem").read_bytes(),
            (directory / "key.pem").read_bytes(),
            (directory / "cert.pem").read_bytes(),
        )
        name = ("grpc.ssl_target_name_override", "inference.lepton.internal")
        return grpc.aio.secure_channel(address, credentials, options=[name])

    async def _open(self, service: str) -> MeshRuntime:
        settings = MeshSettings.load(service, self.settings(service))
        return await self._stack.enter_async_context(await MeshRuntime.open(service, settings))

    async def _small(
        self, service: str, descriptor: Any, module: Any, name: str, servicer: Any
    ) -> None:
        runtime = await self._open(service)
        full = descriptor.services_by_name[name]
        every = Rule(
            min_role=Role.VIEWER,
            peers=service == "auth",
            services=frozenset({"inference"}),
        )
        served = Served(getattr(module, f"add_{name}Servicer_to_server"), servicer, full)
        methods = {f"/{full.full_name}/{method.name}": every for method in full.methods}
        servicers = [served]
        if service == "auth":
            other = descriptor.services_by_name["CertificateService"]
            servicers.append(
                Served(
                    auth_pb2_grpc.add_CertificateServiceServicer_to_server,
                    _Certificates(self.revoked),
                    other,
                )
            )
            methods |= {f"/{other.full_name}/{method.name}": every for method in other.methods}

        async def keys() -> list[dict[str, str]]:
            return [self.jwk()]

        async def revoked() -> list[str]:
            return []

        if isinstance(servicer, _Auth):
            servicer.keys = keys
        made = Service(
            servicers=servicers,
            table=AuthorizationTable(methods),
            fetch_keys=keys,
            fetch_revoked=revoked,
        )
        serving = asyncio.create_task(serve(runtime, made, self._stop))

        async def ended() -> None:
            await serving

        self._stack.push_async_callback(ended)

    def jwk(self) -> dict[str, str]:
        """The public half of the signing key."""
        numbers = self.signing_key.public_key().public_numbers()
        x, y = (
            base64.urlsafe_b64encode(number.to_bytes(32)).rstrip(b"=").decode()
            for number in (numbers.x, numbers.y)
        )
        return {"kid": "k1", "kty": "EC", "crv": "P-256", "x": x, "y": y}


class _Auth(auth_pb2_grpc.AuthServiceServicer):
    keys: Any

    async def GetJwks(self, request: Any, context: Any) -> auth_pb2.Jwks:
        return auth_pb2.Jwks(keys=[auth_pb2.JsonWebKey(**key) for key in await self.keys()])


class _Certificates(auth_pb2_grpc.CertificateServiceServicer):
    def __init__(self, revoked: list[str]) -> None:
        self._revoked = revoked

    async def ListRevokedCertificates(
        self, request: Any, context: Any
    ) -> auth_pb2.ListRevokedCertificatesResponse:
        return auth_pb2.ListRevokedCertificatesResponse(
            revoked_certificates=[
                auth_pb2.RevokedCertificate(serial_number=serial) for serial in self._revoked
            ]
        )
