"""What a process of the mesh has: its identity, etcd, the directory, channels, telemetry.

``run_service`` opens one for a service. A process with another main loop opens its own::

    async with await MeshRuntime.open("inference", settings) as runtime:
        stub = ModelServiceStub(runtime.channel("registry"))
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from lepton.api.auth.v1 import auth_pb2, auth_pb2_grpc
from lepton_mesh.balancer import BalancedChannel
from lepton_mesh.caller import acting_as_service
from lepton_mesh.discovery import Directory
from lepton_mesh.etcd import EtcdClient
from lepton_mesh.identity import Identity, Renewer, obtain_identity, renewer_over
from lepton_mesh.interceptors.client import MeshChannel
from lepton_mesh.peers import Denylist, PeerCheck
from lepton_mesh.telemetry import Telemetry
from lepton_mesh.tls import connector
from lepton_mesh.tokens import FetchKeys, TokenVerifier, auth_keys

if TYPE_CHECKING:
    from collections.abc import Set

    from lepton_mesh.config import MeshSettings


FetchRevoked = Callable[[], Awaitable[Iterable[str]]]
"""The serial numbers of the certificates that were revoked, lower-case hex."""

FETCH_TIMEOUT_SECONDS = 5.0
DENYLIST_FILE = "denylist.json"
AUTH_READS = frozenset(
    {
        "/lepton.api.auth.v1.AuthService/GetJwks",
        "/lepton.api.auth.v1.CertificateService/ListRevokedCertificates",
    }
)
"""What every process asks auth again when an instance of it fails."""
HEDGED_READS = AUTH_READS | {
    "/lepton.api.registry.v1.RegistryService/GetModelVersion",
    "/lepton.api.storage.v1.StorageService/GetArtifact",
    "/lepton.api.storage.v1.StorageService/GetDatasetVersion",
}
"""Reads that services make of each other: a slow one is sent to a second instance as well."""


class MeshRuntime:
    """Made by :meth:`open`; every part is closed by :meth:`close`, in reverse order."""

    def __init__(
        self,
        *,
        service: str,
        settings: MeshSettings,
        identity: Identity,
        etcd: EtcdClient,
        directory: Directory,
        telemetry: Telemetry,
    ) -> None:
        self.service = service
        self.settings = settings
        self.identity = identity
        self.etcd = etcd
        self.directory = directory
        self.telemetry = telemetry
        self.metrics_address = ""
        """``host:port`` of the Prometheus endpoint; "" where it is off."""
        self.draining = asyncio.Event()
        """Set when the process was told to stop: long streams should end."""
        self._channels: dict[tuple[str, frozenset[str]], MeshChannel] = {}
        self._balanced: list[BalancedChannel] = []
        self._stack = AsyncExitStack()
        auth = self.channel("auth", idempotent=AUTH_READS)
        self.verify_by(auth_keys(auth), revoked_certificates(auth))

    @classmethod
    async def open(
        cls,
        service: str,
        settings: MeshSettings,
        *,
        renewer: Renewer | None = None,
        identity: Identity | None = None,
    ) -> Self:
        """Joins the mesh as ``service``.

        Args:
            renewer: Issues this process' certificates; by default the auth service does.
            identity: Taken instead of the service's own, as a job's; it is closed with the rest.

        Raises:
            LeptonError: No identity, no etcd; the message says which and what to do.
        """
        async with AsyncExitStack() as stack:
            if identity is None:
                identity = await obtain_identity(settings, service, renewer)
            stack.push_async_callback(identity.close)
            etcd = EtcdClient(settings.etcd_endpoint_list, connector(identity, "etcd"))
            stack.push_async_callback(etcd.close)
            directory = Directory(etcd)
            await directory.start()
            stack.push_async_callback(directory.close)
            telemetry = Telemetry(
                service,
                settings.instance,
                otlp_endpoint=settings.otlp_endpoint,
                sample_ratio=settings.trace_sample_ratio,
            )
            stack.push_async_callback(asyncio.to_thread, telemetry.close)
            runtime = cls(
                service=service,
                settings=settings,
                identity=identity,
                etcd=etcd,
                directory=directory,
                telemetry=telemetry,
            )
            stack.push_async_callback(runtime._close_channels)
            if settings.metrics_port >= 0:
                runtime.metrics_address = telemetry.serve_metrics(
                    settings.listen_host, settings.metrics_port
                )
            telemetry.certificate_expiry.set(identity.credentials.not_after.timestamp())
            identity.on_rotate(runtime._on_rotate)
            identity.on_failure(lambda _: telemetry.certificate_failures.inc())
            identity.start(renewer or renewer_over(runtime.channel("auth", idempotent=AUTH_READS)))
            runtime._stack = stack.pop_all()
            return runtime
        raise AssertionError("an exit stack swallows nothing")

    def channel(
        self,
        service: str,
        *,
        idempotent: Set[str] = frozenset(),
    ) -> MeshChannel:
        """A channel to all instances of ``service``; the same one for the same arguments.

        Args:
            idempotent: Full method names that may be repeated when an instance fails. Those of
                :data:`HEDGED_READS` are on every channel.
        """
        key = (service, frozenset(idempotent))
        if key not in self._channels:
            size = self.settings.max_message_bytes
            options = [
                ("grpc.max_receive_message_length", size),
                ("grpc.max_send_message_length", size),
            ]
            self._balanced.append(
                BalancedChannel(
                    self.directory,
                    service,
                    connector(self.identity, service, options=options),
                    idempotent=idempotent,
                    hedged=HEDGED_READS,
                )
            )
            self._channels[key] = MeshChannel(self._balanced[-1], service, self.telemetry)
        return self._channels[key]

    def verify_by(self, fetch_keys: FetchKeys, fetch_revoked: FetchRevoked) -> None:
        """Takes token keys and revoked serials from these; by default the auth service's answers.

        Before :meth:`start_verifying`, and for the auth service itself.
        """
        self.verifier = TokenVerifier(fetch_keys)
        self.denylist = Denylist(
            fetch_revoked,
            file=self.settings.state_dir / DENYLIST_FILE,
            on_fetched=self.telemetry.denylist_fetched.set,
        )
        self.check_peer = PeerCheck(self.settings.trust_domain, self.denylist)

    def start_verifying(self) -> None:
        """Keeps token keys and revoked serials fresh until :meth:`close`: for who serves calls."""
        self.verifier.start()
        self._stack.push_async_callback(self.verifier.close)
        self.denylist.start()
        self._stack.push_async_callback(self.denylist.close)

    async def close(self) -> None:
        await self._stack.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.close()

    async def _on_rotate(self) -> None:
        """Opens every connection anew, so that none outlives the certificate it carries."""
        self.telemetry.certificate_expiry.set(self.identity.credentials.not_after.timestamp())
        await asyncio.gather(self.etcd.refresh(), *(one.refresh() for one in self._balanced))

    async def _close_channels(self) -> None:
        for channel in self._balanced:
            await channel.close()
        self._channels.clear()
        self._balanced.clear()
        # A closed channel that is still in memory, as part of a cycle, delays the end of the
        # process: gRPC's core waits two seconds for it (measured with grpcio 1.81.1).
        gc.collect()


def revoked_certificates(channel: MeshChannel) -> FetchRevoked:
    """Serial numbers from ``CertificateService.ListRevokedCertificates`` over the mesh."""
    stub: Any = auth_pb2_grpc.CertificateServiceStub(channel)

    async def fetch() -> Iterable[str]:
        with acting_as_service(""):
            answer: auth_pb2.ListRevokedCertificatesResponse = await stub.ListRevokedCertificates(
                auth_pb2.ListRevokedCertificatesRequest(), timeout=FETCH_TIMEOUT_SECONDS
            )
        return [one.serial_number for one in answer.revoked_certificates]

    return fetch
