"""The certificate that a process of the mesh lives with: obtained, renewed, handed out.

identity = await obtain_identity(settings, "storage")    # a valid one on disk, else a join
server.add_secure_port(address, server_credentials(identity))
identity.on_rotate(channel.refresh)
identity.on_failure(count_it)
identity.start(renewer_over(auth_channel))                # renews at half-life
...
await identity.close()
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol, Self

import grpc

from lepton.api.auth.v1 import auth_pb2, auth_pb2_grpc
from lepton_mesh import credential_files
from lepton_mesh.caller import acting_as_service
from lepton_mesh.config import InvalidConfiguration, MeshSettings
from lepton_mesh.errors import FailedPrecondition
from lepton_mesh.join import InvalidJoinToken, JoinToken, JoinUnavailable, join
from lepton_mesh.pki import (
    CertificateUntrusted,
    Credentials,
    fingerprint,
    generate_key,
    key_pem,
    make_csr,
)
from lepton_mesh.spiffe import SpiffeId, dns_name

__all__ = [
    "FilesIdentity",
    "Identity",
    "IdentityMissing",
    "Issued",
    "Renewer",
    "SpiffeId",
    "WorkloadIdentity",
    "dns_name",
    "obtain_identity",
    "renewer_over",
]

log = logging.getLogger(__name__)

_JOIN_PATIENCE_SECONDS = 30.0
_RENEW_TIMEOUT_SECONDS = 30.0
_RETRY_SECONDS = (0.5, 60.0)
# Sleep counts a monotonic clock, which stands still while a laptop is suspended; the
# certificate's end does not. So nothing sleeps longer than this without looking at the time.
_LONGEST_SLEEP_SECONDS = 15.0
_FILES_POLL_SECONDS = 5.0


class IdentityMissing(FailedPrecondition):
    """There is no valid certificate, and no way to get one was configured."""

    reason = "IDENTITY_MISSING"


@dataclass(frozen=True, slots=True)
class Issued:
    """What an authority answers to a signing request; PEM."""

    certificate_chain_pem: bytes
    trust_bundle_pem: bytes


Renewer = Callable[[bytes], Awaitable[Issued]]
"""Trades a signing request (PKCS#10, DER) for a certificate."""

OnRotate = Callable[[], Awaitable[None] | None]
OnFailure = Callable[[Exception], None]


class Identity(Protocol):
    """The port: whoever the authority is, this is what the rest of the mesh needs."""

    @property
    def spiffe_id(self) -> SpiffeId: ...
    @property
    def credentials(self) -> Credentials:
        """The newest; another object after each rotation."""

    @property
    def certificate_chain_pem(self) -> bytes: ...
    @property
    def private_key_pem(self) -> bytes: ...
    @property
    def trust_bundle_pem(self) -> bytes: ...

    def on_rotate(self, callback: OnRotate) -> None:
        """Calls (and awaits) ``callback`` in the event loop after each rotation."""

    def on_failure(self, callback: OnFailure) -> None:
        """Calls ``callback`` each time that the certificate could not be renewed."""

    def start(self, renewer: Renewer) -> None:
        """Keeps the certificate fresh in the background until :meth:`close`.

        Args:
            renewer: The mesh's authority; not asked by an identity with another one.
        """

    async def close(self) -> None: ...


async def obtain_identity(
    settings: MeshSettings, service: str, authority: Renewer | None = None
) -> Identity:
    """The identity that the settings ask for: an external authority's files, or the mesh's own."""
    if settings.identity_dir is not None:
        spiffe_id = SpiffeId.for_service(settings.trust_domain, service)
        return await FilesIdentity.open(settings.identity_dir, spiffe_id)
    return await WorkloadIdentity.obtain(settings, service, authority)


def renewer_over(channel: grpc.aio.Channel) -> Renewer:
    """Renews with the auth service over ``channel``, which carries the certificate of now."""
    stub = auth_pb2_grpc.CertificateServiceStub(channel)

    async def renew(csr: bytes) -> Issued:
        with acting_as_service(""):
            bundle = await stub.RenewCertificate(
                auth_pb2.RenewCertificateRequest(csr=csr), timeout=_RENEW_TIMEOUT_SECONDS
            )
        return Issued(bundle.certificate_chain_pem.encode(), bundle.trust_bundle_pem.encode())

    return renew


class _Rotating:
    """Current credentials, who wants to know of new ones, and a task that looks for them."""

    def __init__(self, spiffe_id: SpiffeId, directory: Path, credentials: Credentials) -> None:
        self.spiffe_id = spiffe_id
        self.directory = directory
        """Where the files are; see :mod:`lepton_mesh.credential_files`."""
        self.credentials = credentials
        self._on_rotate: list[OnRotate] = []
        self._on_failure: list[OnFailure] = []
        self._task: asyncio.Task[None] | None = None

    @property
    def certificate_chain_pem(self) -> bytes:
        return self.credentials.certificate_chain_pem

    @property
    def private_key_pem(self) -> bytes:
        return self.credentials.private_key_pem

    @property
    def trust_bundle_pem(self) -> bytes:
        return self.credentials.trust_bundle_pem

    def on_rotate(self, callback: OnRotate) -> None:
        self._on_rotate.append(callback)

    def on_failure(self, callback: OnFailure) -> None:
        self._on_failure.append(callback)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _rotated(self, credentials: Credentials) -> None:
        self.credentials = credentials
        log.info("certificate rotated", extra=_fields(self.spiffe_id, credentials))
        for callback in self._on_rotate:
            try:
                waiting = callback()
                if inspect.isawaitable(waiting):
                    await waiting
            except Exception:
                log.exception("a rotation callback failed")

    def _failed(self, error: Exception) -> None:
        log.error(
            "certificate not renewed; the old one stays in use",
            extra={**_fields(self.spiffe_id, self.credentials), "error": _describe(error)},
        )
        for callback in self._on_failure:
            callback(error)


class WorkloadIdentity(_Rotating):
    """An identity issued by the mesh's own authority; made with :meth:`obtain`."""

    def __init__(
        self,
        spiffe_id: SpiffeId,
        directory: Path,
        credentials: Credentials,
        *,
        join_address: str = "",
        join_token_file: Path | None = None,
    ) -> None:
        super().__init__(spiffe_id, directory, credentials)
        self._join_address = join_address
        self._join_token_file = join_token_file

    @classmethod
    async def obtain(
        cls, settings: MeshSettings, service: str, authority: Renewer | None = None
    ) -> Self:
        """The identity of ``service``, with files in ``<state_dir>/identity``. See :meth:`open`."""
        return await cls.open(
            SpiffeId.for_service(settings.trust_domain, service),
            settings.state_dir / "identity",
            join_address=settings.join_address,
            join_token_file=settings.join_token_file,
            authority=authority,
        )

    @classmethod
    async def open(
        cls,
        spiffe_id: SpiffeId,
        directory: Path,
        join_address: str = "",
        join_token_file: Path | None = None,
        *,
        authority: Renewer | None = None,
    ) -> Self:
        """Takes the valid certificate in ``directory``; else asks ``authority`` or joins.

        Args:
            authority: One within this process: the auth service's own.

        Raises:
            IdentityMissing: No valid certificate, no authority, no token.
            InvalidJoinToken, JoinRefused, AuthorityNotPinned, JoinUnavailable: From joining.
        """
        credentials = await asyncio.to_thread(_load_valid, directory, spiffe_id)
        if credentials is None and authority is not None:
            credentials = await _request(authority, spiffe_id)
            await _keep(directory, credentials, None)
        elif credentials is None:
            credentials = await _join(spiffe_id, join_address, join_token_file)
            await _keep(directory, credentials, join_token_file)
        log.info("certificate ready", extra=_fields(spiffe_id, credentials))
        return cls(
            spiffe_id,
            directory,
            credentials,
            join_address=join_address,
            join_token_file=join_token_file,
        )

    def start(self, renewer: Renewer) -> None:
        """Renews with ``renewer`` at half of the certificate's life.

        A failure keeps the old certificate, raises the alarm and is retried within a minute. Once
        the certificate has ended no peer accepts it any more: then a new token in the join token
        file lets the process join again.
        """
        self._task = asyncio.create_task(self._keep_fresh(renewer), name="certificate renewal")

    async def renew(self, renewer: Renewer) -> None:
        """Replaces the certificate now, or raises and leaves everything as it was."""
        ended = self.credentials.not_after <= datetime.now(UTC)
        token_file = self._join_token_file
        if ended and token_file is not None and token_file.exists():
            credentials = await _join(self.spiffe_id, self._join_address, token_file)
        else:
            token_file = None
            credentials = await _request(renewer, self.spiffe_id)
        await _keep(self.directory, credentials, token_file)
        await self._rotated(credentials)

    async def _keep_fresh(self, renewer: Renewer) -> None:
        failures = 0
        while True:
            left = max(0.0, (self.credentials.not_after - datetime.now(UTC)).total_seconds())
            shortest, longest = _RETRY_SECONDS
            delay = min(max(left / 4, shortest), longest) if failures else left / 2
            # Jitter keeps instances that started together from renewing together.
            delay *= random.uniform(0.8, 1.0)  # noqa: S311 - jitter is no secret
            await _sleep_until(datetime.now(UTC) + timedelta(seconds=delay))
            try:
                await self.renew(renewer)
                failures = 0
            except Exception as error:
                # Whatever it was, the task must live to try again.
                failures += 1
                self._failed(error)


class FilesIdentity(_Rotating):
    """An identity that another authority keeps in files: cert.pem, key.pem, ca.pem.

    The files may be replaced at any time, in any order; a set that does not fit together is
    not taken.
    """

    @classmethod
    async def open(cls, directory: Path, spiffe_id: SpiffeId) -> Self:
        """
        Raises:
            InvalidConfiguration: The directory holds no valid certificate for ``spiffe_id``.
        """
        try:
            return cls(spiffe_id, directory, await asyncio.to_thread(_load, directory, spiffe_id))
        except CertificateUntrusted as error:
            raise InvalidConfiguration(f"LEPTON_IDENTITY_DIR: {error.message}") from error

    def start(self, renewer: Renewer) -> None:
        """Follows the files; the renewer is not asked."""
        self._task = asyncio.create_task(self._follow(), name="certificate files")

    async def reload(self) -> None:
        """Takes the files if they changed.

        Raises:
            CertificateUntrusted: They do not fit together, or are not for this workload.
        """
        credentials = await asyncio.to_thread(_load, self.directory, self.spiffe_id)
        if credentials != self.credentials:
            await self._rotated(credentials)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_FILES_POLL_SECONDS)
            try:
                await self.reload()
            except Exception as error:
                # Whatever it was, the task must live to try again.
                self._failed(error)


def _load(directory: Path, spiffe_id: SpiffeId) -> Credentials:
    """What is in ``directory`` if it is valid and of ``spiffe_id``; else CertificateUntrusted."""
    try:
        credentials = credential_files.load(directory)
    except OSError as error:
        raise CertificateUntrusted(f"cannot read {directory}: {error.strerror}") from error
    if credentials is None:
        raise CertificateUntrusted(f"{directory} lacks cert.pem, key.pem or ca.pem")
    _verify(credentials, spiffe_id)
    return credentials


def _load_valid(directory: Path, spiffe_id: SpiffeId) -> Credentials | None:
    try:
        return _load(directory, spiffe_id)
    except CertificateUntrusted:
        return None


def _verify(credentials: Credentials, spiffe_id: SpiffeId) -> None:
    credentials.verify()
    if credentials.names.spiffe_id != spiffe_id:
        raise CertificateUntrusted(
            f"the certificate is for {credentials.names.spiffe_id}, not for {spiffe_id}"
        )


async def _request(renewer: Renewer, spiffe_id: SpiffeId) -> Credentials:
    """A new key and its certificate from ``renewer``."""
    key = generate_key()
    async with asyncio.timeout(_RENEW_TIMEOUT_SECONDS):
        issued = await renewer(make_csr(key))
    credentials = Credentials(key_pem(key), issued.certificate_chain_pem, issued.trust_bundle_pem)
    _verify(credentials, spiffe_id)
    return credentials


async def _join(spiffe_id: SpiffeId, address: str, token_file: Path | None) -> Credentials:
    """Joins with the token in ``token_file``."""
    if not address or token_file is None:
        raise IdentityMissing(
            f"there is no valid certificate for {spiffe_id}; "
            "set LEPTON_JOIN_ADDRESS and LEPTON_JOIN_TOKEN_FILE"
        )
    try:
        text = await asyncio.to_thread(token_file.read_text)
    except (OSError, UnicodeDecodeError) as error:
        raise IdentityMissing(
            f"there is no valid certificate for {spiffe_id}, and no join token can be read from "
            f"{token_file} ({type(error).__name__}); create one with "
            f"`python -m lepton_auth join-token --service {spiffe_id.service or '<service>'}`"
        ) from error
    token = JoinToken.decode(text)
    if token.spiffe_id != spiffe_id:
        raise InvalidJoinToken(
            f"the join token in {token_file} is for {token.spiffe_id}, not for {spiffe_id}"
        )
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _JOIN_PATIENCE_SECONDS
    while True:
        try:
            credentials = await join(address, token)
            break
        except JoinUnavailable:
            # The auth service may be starting just now.
            if loop.time() > deadline:
                raise
            await asyncio.sleep(0.2)
    return credentials


async def _keep(directory: Path, credentials: Credentials, spent: Path | None) -> None:
    """Writes the files, and only then deletes the join token that was spent for them.

    What is left after a crash in between says what happened: the token was used.
    """
    await asyncio.to_thread(credential_files.save, directory, credentials)
    if spent is not None:
        await asyncio.to_thread(spent.unlink, missing_ok=True)


async def _sleep_until(due: datetime) -> None:
    while (left := (due - datetime.now(UTC)).total_seconds()) > 0:  # noqa: ASYNC110 - it waits for a time
        await asyncio.sleep(min(left, _LONGEST_SLEEP_SECONDS))


def _fields(spiffe_id: SpiffeId, credentials: Credentials) -> dict[str, str]:
    return {
        "spiffe_id": str(spiffe_id),
        "not_after": credentials.not_after.isoformat(),
        "certificate": fingerprint(credentials.leaf).hex()[:16],
    }


def _describe(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return f"{type(error).__name__}: {error}"
