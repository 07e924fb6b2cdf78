"""From what the mesh knows to what Envoy reads: endpoints, routes, certificates, signing keys."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from lepton_gateway.envoy import Json, clusters, secrets
from lepton_gateway.envoy.bootstrap import ROUTES_FILE, TOKEN_FILE
from lepton_gateway.envoy.filters import token_verification
from lepton_gateway.envoy.routes import RouteOptions, routes
from lepton_gateway.files import ConfigurationFiles
from lepton_gateway.upstreams import UPSTREAMS
from lepton_mesh import base64url
from lepton_mesh.discovery import Instance

log = logging.getLogger(__name__)

DEBOUNCE_SECONDS = 0.02
"""Changes that come together are written once; far less than the 0.5 s an instance gives."""
_RETRY_SECONDS = 1.0


class InstanceView(Protocol):
    """The part of :class:`lepton_mesh.discovery.Directory` that is used here."""

    def instances(self, service: str, /) -> Sequence[Instance]: ...

    def subscribe(self, callback: Callable[[str], None], /) -> Callable[[], None]: ...


class ControlPlane:
    """Keeps the files that Envoy watches true. Everything happens in the event loop.

    What is wanted is kept here and written in one pass. A pass that fails, as on a full disk,
    is logged and made again after a pause, so that nothing wanted is ever forgotten.
    """

    def __init__(
        self, files: ConfigurationFiles, directory: InstanceView, options: RouteOptions
    ) -> None:
        self._files = files
        self._directory = directory
        self._options = options
        self._keys_known = False
        self._secrets: dict[str, Json] = {}
        self._verification = token_verification(_nobodys_keys())
        self._pending: asyncio.TimerHandle | None = None
        self._unsubscribe: Callable[[], None] | None = None

    def start(self) -> None:
        """Writes everything, and follows the directory from now on.

        Raises:
            OSError: Something could not be written; Envoy would not start.
        """
        self._write()
        self._unsubscribe = self._directory.subscribe(self._directory_changed)

    def close(self) -> None:
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None

    def set_certificate(self, chain_pem: str, private_key_pem: str, trust_bundle_pem: str) -> None:
        """Takes over our own certificate and the roots; connections that are open go on."""
        self._secrets = {
            f"{secrets.CERTIFICATE}.json": secrets.certificate(chain_pem, private_key_pem),
            f"{secrets.TRUST}.json": secrets.trust(trust_bundle_pem),
        }
        self._wanted_changed()

    def set_signing_keys(self, jwks: Json) -> None:
        """Takes over the keys that tokens are verified with, and opens the routes."""
        self._verification = token_verification(jwks)
        self._keys_known = True
        self._wanted_changed()

    def _directory_changed(self, _service: str) -> None:
        if self._pending is None:
            self._write_in(DEBOUNCE_SECONDS)

    def _wanted_changed(self) -> None:
        # Before the start it is only kept; after the close there is no Envoy to tell.
        if self._unsubscribe is not None:
            self._try_to_write()

    def _write_in(self, seconds: float) -> None:
        self._pending = asyncio.get_running_loop().call_later(seconds, self._try_to_write)

    def _try_to_write(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            self._pending = None
        try:
            self._write()
        except OSError as error:
            log.warning("configuration not written", extra={"error": str(error)})
            self._write_in(_RETRY_SECONDS)

    def _write(self) -> None:
        for name, secret in self._secrets.items():
            self._files.write(name, secret)
        self._files.write(TOKEN_FILE, self._verification)
        ready: dict[str, bool] = {}
        for upstream in UPSTREAMS:
            instances = self._directory.instances(upstream.service)
            ready[upstream.service] = bool(instances)
            self._files.write(f"{upstream.cluster}.json", clusters.endpoints(upstream, instances))
        # Last: they open what the files before make possible.
        self._files.write(ROUTES_FILE, routes(self._options, ready, self._keys_known))


def _nobodys_keys() -> Json:
    """A key set that verifies nothing, as its private key is gone; Envoy takes no empty one."""
    numbers = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    x, y = (base64url.encode(number.to_bytes(32)) for number in (numbers.x, numbers.y))
    return {"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": "none", "x": x, "y": y}]}
