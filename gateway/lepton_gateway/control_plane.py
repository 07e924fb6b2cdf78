"""From what the mesh knows to what Envoy reads: endpoints, routes, certificates, signing keys."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from lepton_gateway.envoy import Json, clusters, secrets
from lepton_gateway.envoy.bootstrap import ROUTES_FILE, TOKEN_FILE
from lepton_gateway.envoy.filters import token_verification
from lepton_gateway.envoy.routes import RouteOptions, routes
from lepton_gateway.files import ConfigurationFiles
from lepton_gateway.upstreams import UPSTREAMS
from lepton_mesh.discovery import Instance

DEBOUNCE_SECONDS = 0.02
"""Changes that come together are written once; far less than the 0.5 s an instance gives."""


class InstanceView(Protocol):
    """The part of :class:`lepton_mesh.discovery.Directory` that is used here."""

    def instances(self, service: str, /) -> Sequence[Instance]: ...

    def subscribe(self, callback: Callable[[str], None], /) -> Callable[[], None]: ...


class ControlPlane:
    """Keeps the files that Envoy watches true. Everything happens in the event loop."""

    def __init__(
        self, files: ConfigurationFiles, directory: InstanceView, options: RouteOptions
    ) -> None:
        self._files = files
        self._directory = directory
        self._options = options
        self._keys_known = False
        self._pending: asyncio.TimerHandle | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Writes endpoints and routes, and follows the directory from now on."""
        if not self._keys_known:
            self._files.write(TOKEN_FILE, token_verification(_nobodys_keys()))
        self._write()
        self._unsubscribe = self._directory.subscribe(self._directory_changed)

    def close(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
        if self._pending is not None:
            self._pending.cancel()

    def set_certificate(self, chain_pem: str, private_key_pem: str, trust_bundle_pem: str) -> None:
        """Takes over our own certificate and the roots; connections that are open go on."""
        self._files.write(
            f"{secrets.CERTIFICATE}.json", secrets.certificate(chain_pem, private_key_pem)
        )
        self._files.write(f"{secrets.TRUST}.json", secrets.trust(trust_bundle_pem))

    def set_signing_keys(self, jwks: Json) -> None:
        """Takes over the keys that tokens are verified with, and opens the routes."""
        self._files.write(TOKEN_FILE, token_verification(jwks))
        self._keys_known = True
        self._write()

    def _directory_changed(self, _service: str) -> None:
        if self._pending is None:
            loop = asyncio.get_running_loop()
            self._pending = loop.call_later(DEBOUNCE_SECONDS, self._write)

    def _write(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        ready: dict[str, bool] = {}
        for upstream in UPSTREAMS:
            instances = self._directory.instances(upstream.service)
            ready[upstream.service] = bool(instances)
            self._files.write(f"{upstream.cluster}.json", clusters.endpoints(upstream, instances))
        self._files.write(ROUTES_FILE, routes(self._options, ready, self._keys_known))


def _nobodys_keys() -> Json:
    """A key set that verifies nothing, as its private key is gone; Envoy takes no empty one."""
    numbers = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    x, y = (
        base64.urlsafe_b64encode(number.to_bytes(32)).decode().rstrip("=")
        for number in (numbers.x, numbers.y)
    )
    return {"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "none", "x": x, "y": y}]}
