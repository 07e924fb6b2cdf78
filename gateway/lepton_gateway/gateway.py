"""The gateway's parts, put together: files, control plane, control server, Envoy."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

from lepton_gateway.config import GatewaySettings
from lepton_gateway.control_plane import ControlPlane, InstanceView
from lepton_gateway.control_server import ControlServer
from lepton_gateway.descriptors import api_descriptor_set, api_services
from lepton_gateway.envoy.bootstrap import ACCESS_LOG_FILE, BootstrapOptions, bootstrap
from lepton_gateway.envoy.routes import RouteOptions
from lepton_gateway.exchange import ApiKeyExchange, IssuedToken
from lepton_gateway.files import ConfigurationFiles
from lepton_gateway.signing_keys import Jwks, SigningKeys
from lepton_gateway.supervisor import Envoy, check_port
from lepton_mesh.health import Health

# sun_path holds 108 bytes (unix(7)), and a state directory may lie deep.
_LONGEST_SOCKET_PATH = 100


class Certificate(Protocol):
    """The part of :class:`lepton_mesh.identity.WorkloadIdentity` that is used here."""

    @property
    def certificate_chain_pem(self) -> bytes: ...
    @property
    def private_key_pem(self) -> bytes: ...
    @property
    def trust_bundle_pem(self) -> bytes: ...


class Gateway:
    """Everything of the gateway but its place in the mesh.

    Args:
        settings: Read once.
        directory: Where the instances are.
        identity: Our certificate; call :meth:`certificate_changed` when it was renewed.
        fetch_keys: Asks the auth service for its JWKS, as RFC 7517 JSON.
        issue_token: Exchanges an API key at the auth service.

    Raises:
        PortInUse: On construction, if the users' port is taken.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        directory: InstanceView,
        identity: Certificate,
        fetch_keys: Callable[[], Awaitable[Jwks]],
        issue_token: Callable[[str], Awaitable[IssuedToken]],
    ) -> None:
        self.port = check_port(settings)
        self._settings = settings
        self._identity = identity
        state = settings.state_dir
        self._sockets = _socket_directory(state)
        self._files = ConfigurationFiles(state / "envoy")
        self._control_plane = ControlPlane(
            self._files,
            directory,
            RouteOptions(
                unary_timeout_seconds=settings.unary_timeout_seconds,
                token_requests_per_second=settings.token_requests_per_second,
                token_requests_per_address=settings.token_requests_per_address,
                cors_origins=settings.cors_origin_list,
            ),
        )
        self._keys = SigningKeys(
            fetch_keys,
            self._control_plane.set_signing_keys,
            cache_file=state / "jwks.json",
            refresh_seconds=settings.jwks_refresh_seconds,
        )
        self._control_server = ControlServer(
            self._sockets / "control.sock",
            ApiKeyExchange(issue_token, settings.api_key_cache_seconds),
        )
        self.envoy = Envoy(
            config=self._files.directory / "bootstrap.json",
            admin_socket=self._sockets / "admin.sock",
            log_file=state / "envoy.log",
            access_log=state / ACCESS_LOG_FILE,
            workers=settings.gateway_workers or len(os.sched_getaffinity(0)),
        )

    @property
    def address(self) -> str:
        """``host:port`` that users connect to."""
        host = self._settings.gateway_host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    async def start(self) -> None:
        """Returns when users' connections are served.

        Raises:
            EnvoyFailed: Envoy did not start.
        """
        self._files.write("bootstrap.json", await asyncio.to_thread(self._bootstrap))
        self.certificate_changed()
        await self._keys.start()
        self._control_plane.start()
        await self._control_server.start()
        await self.envoy.start()
        self._control_server.health.serving()

    def take_health(self, health: Health) -> None:
        """Keeps the health of our place in the mesh true: NOT_SERVING while Envoy is away."""
        self.envoy.on_change(health.available)

    def certificate_changed(self) -> None:
        """Hands Envoy the identity's present certificate."""
        self._control_plane.set_certificate(
            self._identity.certificate_chain_pem.decode(),
            self._identity.private_key_pem.decode(),
            self._identity.trust_bundle_pem.decode(),
        )

    async def close(self) -> None:
        """Lets running calls end within the drain grace, then ends Envoy."""
        self._control_server.health.not_serving()
        await self.envoy.drain(self._settings.drain_grace_seconds)
        await self.envoy.close()
        self._control_plane.close()
        await self._keys.close()
        await self._control_server.close()
        if self._sockets.parent != self._settings.state_dir:
            await asyncio.to_thread(shutil.rmtree, self._sockets, ignore_errors=True)

    def _bootstrap(self) -> dict[str, object]:
        settings = self._settings
        return bootstrap(
            BootstrapOptions(
                host=settings.gateway_host,
                port=self.port,
                directory=self._files.directory,
                access_log=settings.state_dir / ACCESS_LOG_FILE,
                control_socket=self._sockets / "control.sock",
                admin_socket=self._sockets / "admin.sock",
                trust_domain=settings.trust_domain,
                descriptor_set=api_descriptor_set(),
                transcoded_services=api_services(),
                requests_per_second=settings.gateway_requests_per_second,
                cors=bool(settings.cors_origin_list),
                stream_idle_seconds=settings.stream_idle_seconds,
                max_connection_age_seconds=settings.max_connection_age_seconds,
                access_log_sample_percent=settings.access_log_sample_percent,
            )
        )


def _socket_directory(state_dir: Path) -> Path:
    """A directory for Unix sockets that only this user can enter."""
    path = state_dir / "sockets"
    if len(os.fsencode(path / "control.sock")) > _LONGEST_SOCKET_PATH:
        return Path(tempfile.mkdtemp(prefix="lepton-gateway-"))
    path.mkdir(mode=0o700, exist_ok=True)
    return path
