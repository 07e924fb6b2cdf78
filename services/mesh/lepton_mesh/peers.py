"""Who is at the other end, checked for every call: a connection outlives its certificate."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509

from lepton_mesh.durable import write_private
from lepton_mesh.errors import PermissionDenied
from lepton_mesh.pki import CertificateUntrusted, Names, serial_hex
from lepton_mesh.spiffe import SpiffeId

log = logging.getLogger(__name__)

_PEM = "x509_pem_cert"
"""The property of gRPC's auth context that holds the peer's leaf certificate."""

_FIRST_RETRY_SECONDS = 1.0


class PeerExpired(PermissionDenied):
    reason = "PEER_CERTIFICATE_EXPIRED"


class PeerRevoked(PermissionDenied):
    reason = "PEER_CERTIFICATE_REVOKED"


class PeerUntrusted(PermissionDenied):
    reason = "PEER_UNTRUSTED"


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What a peer's certificate says; its chain was verified in the handshake."""

    names: Names
    serial: str
    """Lower-case hex."""
    not_after: datetime


class Denylist:
    """Serial numbers that are refused although their certificates have not ended.

    Args:
        fetch: Asks the auth service for the list; None for one that is set by hand.
        interval_seconds: How old the list gets.
        file: Keeps the last list, so that a start while auth is away does not let everyone in.
        on_fetched: Is told when (Unix time) the list in use was fetched.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Iterable[str]]] | None = None,
        interval_seconds: float = 30.0,
        *,
        file: Path | None = None,
        on_fetched: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._fetch = fetch
        self._file = file
        self._on_fetched = on_fetched
        self._interval = interval_seconds
        self._serials: frozenset[str] = frozenset()
        self._known = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __contains__(self, serial: object) -> bool:
        return serial in self._serials

    def replace(self, serials: Iterable[str]) -> None:
        self._serials = frozenset(serials)
        self._known.set()

    async def wait(self, seconds: float) -> None:
        """Returns when there is a list, or without one after ``seconds``, which it logs."""
        try:
            async with asyncio.timeout(seconds):
                await self._known.wait()
        except TimeoutError:
            log.warning(
                "serving with the denylist of an earlier run, or none: "
                "the auth service gave no answer",
                extra={"serials": len(self._serials)},
            )

    async def refresh(self) -> None:
        """Fetches now; keeps the list it has, and logs, if that fails."""
        if self._fetch is None:
            return
        try:
            self.replace(await self._fetch())
            fetched = time.time()
            self._on_fetched(fetched)
            if self._file is not None:
                await asyncio.to_thread(_save, self._file, fetched, self._serials)
        except Exception as error:
            # Any failure: the old list is better than none, and than no task.
            log.warning("denylist not refreshed", extra={"error": type(error).__name__})

    def load(self) -> None:
        """Takes the list that an earlier run kept, unless there is a newer one already."""
        if self._file is None or self._known.is_set():
            return
        try:
            kept = json.loads(self._file.read_bytes())
            self._serials = frozenset(str(serial) for serial in kept["serials"])
            self._on_fetched(float(kept["fetched"]))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("the denylist that was kept is not readable", extra={"error": str(error)})

    def start(self) -> None:
        """Loads what was kept, and refreshes in the background until :meth:`close`."""
        self.load()
        self._task = asyncio.create_task(self._follow(), name="denylist")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await self.refresh()
            interval = self._interval if self._known.is_set() else _FIRST_RETRY_SECONDS
            # Jitter keeps instances that started together apart; it is no secret.
            await asyncio.sleep(interval * random.uniform(0.8, 1.2))  # noqa: S311 - see above


class PeerCheck:
    """Verifies the peer of one call; a server needs one of these.

    Args:
        trust_domain: The only one whose workloads are accepted.
        denylist: Serials that are refused.
    """

    def __init__(self, trust_domain: str, denylist: Denylist) -> None:
        self._trust_domain = trust_domain
        self._denylist = denylist

    def __call__(self, context: grpc.aio.ServicerContext[Any, Any]) -> SpiffeId | None:
        """The peer's SPIFFE id; None if the listener asked for no certificate.

        Raises:
            PeerExpired, PeerRevoked, PeerUntrusted
        """
        peer = peer_certificate(context.auth_context())
        if peer is None:
            return None
        name = peer.names.spiffe_id
        if peer.not_after <= datetime.now(UTC):
            raise PeerExpired(
                f"the certificate of {name} ended at {peer.not_after:%Y-%m-%dT%H:%M:%SZ}; "
                "renew it and connect anew",
                peer=name,
            )
        if name.trust_domain != self._trust_domain:
            raise PeerUntrusted(
                f"{name} is not of trust domain '{self._trust_domain}'; "
                "both ends need the same LEPTON_TRUST_DOMAIN",
                peer=name,
            )
        if peer.serial in self._denylist:
            raise PeerRevoked(
                f"the certificate {peer.serial} of {name} was revoked; join again", peer=name
            )
        return name


def peer_certificate(auth_context: Mapping[str, Iterable[bytes]]) -> PeerCertificate | None:
    """The certificate in ``context.auth_context()``; None if the peer showed none.

    Raises:
        PeerUntrusted: It is not a certificate of a mesh.
    """
    for pem in auth_context.get(_PEM, ()):
        return _parse(pem)
    return None


def _save(file: Path, fetched: float, serials: Iterable[str]) -> None:
    """Replaces ``file`` at once; a crash leaves the old list or the new one."""
    content = {"fetched": fetched, "serials": sorted(serials)}
    write_private(file, json.dumps(content).encode())


@lru_cache(maxsize=1024)
def _parse(pem: bytes) -> PeerCertificate:
    # Parsing takes some 100 microseconds and connections carry many calls.
    certificate = x509.load_pem_x509_certificate(pem)
    try:
        names = Names.of(certificate)
    except CertificateUntrusted as error:
        raise PeerUntrusted(error.message) from None
    return PeerCertificate(names, serial_hex(certificate), certificate.not_valid_after_utc)
