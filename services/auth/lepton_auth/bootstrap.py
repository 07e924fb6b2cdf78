"""Builds the auth service's parts and wires them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from lepton.api.auth.v1 import auth_pb2, auth_pb2_grpc
from lepton_auth.accounts import Accounts
from lepton_auth.adapters.argon2_passwords import Argon2Passwords
from lepton_auth.adapters.signing_keys import FileSigningKeys
from lepton_auth.adapters.sql import SqlStore
from lepton_auth.api_keys import KeyRing
from lepton_auth.audit import Auditor
from lepton_auth.authority_files import load_authority
from lepton_auth.certificate_servicer import JOIN_TABLE, CertificateServicer
from lepton_auth.certificate_servicer import TABLE as CERTIFICATE_TABLE
from lepton_auth.certificates import Certificates, own_renewer
from lepton_auth.config import AuthSettings
from lepton_auth.joining import Joining
from lepton_auth.login import Login
from lepton_auth.servicer import TABLE, AuthServicer
from lepton_auth.throttle import Throttle
from lepton_auth.tokens import MAX_JOB_SECONDS, TokenMint
from lepton_mesh.database import Database
from lepton_mesh.identity import Renewer
from lepton_mesh.pki import Names
from lepton_mesh.process import Listener, Served, Service
from lepton_mesh.runtime import MeshRuntime
from lepton_mesh.spiffe import SpiffeId
from lepton_mesh.telemetry import current_trace_id

log = logging.getLogger(__name__)

_UPKEEP_SECONDS = 600.0
_SIGNING_KEYS = "signing-keys.json"
# Those who verify fetch the keys anew every few minutes, and the gateway's Envoy does too.
_PUBLISH_BEFORE = timedelta(hours=1)


async def authority(settings: AuthSettings) -> Renewer:
    """Issues the auth service's own certificate. Raises AuthorityMissing before ``init``."""
    issuing = await asyncio.to_thread(load_authority, settings.state_dir)
    names = Names(SpiffeId.for_service(settings.trust_domain, "auth"))
    return own_renewer(issuing, names, timedelta(seconds=settings.certificate_seconds))


async def build(runtime: MeshRuntime, settings: AuthSettings) -> Service:
    """Users and certificates on the main port, joining on a second one."""
    issuing = await asyncio.to_thread(load_authority, settings.state_dir)
    database = await asyncio.to_thread(
        Database.open, settings.database_url, "lepton_auth.migrations"
    )
    store = SqlStore(database)
    auditor = Auditor(store, _now, current_trace_id)
    passwords = await asyncio.to_thread(
        Argon2Passwords, settings.password_checks, settings.password_queue
    )
    signing_keys = await asyncio.to_thread(_open_signing_keys, settings)
    mint = TokenMint(signing_keys, _now, timedelta(seconds=settings.access_token_seconds))
    login = Login(
        store,
        passwords,
        mint,
        auditor,
        throttle=Throttle(settings.login_failures, settings.login_window_seconds, time.monotonic),
        clock=_now,
        refresh_life=timedelta(seconds=settings.refresh_token_seconds),
    )
    certificates = Certificates(
        issuing, store, auditor, _now, timedelta(seconds=settings.certificate_seconds)
    )
    joining = Joining(certificates, store, auditor, _now, settings.trust_domain)
    users = AuthServicer(
        Accounts(store, passwords, auditor, _now),
        login,
        KeyRing(store, auditor, _now),
        auditor,
        signing_keys,
    )
    certificate_service = _served_certificates(CertificateServicer(certificates, joining, mint))
    upkeep: list[asyncio.Task[None]] = []

    async def start() -> None:
        audit_life = timedelta(days=settings.audit_days)
        work = _keep_up(signing_keys, login, auditor, audit_life)
        upkeep.append(asyncio.create_task(work, name="auth upkeep"))

    async def close() -> None:
        for task in upkeep:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        passwords.close()
        await asyncio.to_thread(database.close)

    async def keys() -> Sequence[Mapping[str, str]]:
        return signing_keys.jwks()

    async def revoked() -> Iterable[str]:
        return [record.serial for record in await certificates.revoked()]

    return Service(
        servicers=[
            Served(
                auth_pb2_grpc.add_AuthServiceServicer_to_server,
                users,
                auth_pb2.DESCRIPTOR.services_by_name["AuthService"],
            ),
            certificate_service,
        ],
        table=TABLE | CERTIFICATE_TABLE,
        listeners=[Listener("join", [certificate_service], JOIN_TABLE, settings.join_listen_port)],
        start=start,
        close=close,
        fetch_keys=keys,
        fetch_revoked=revoked,
    )


def _served_certificates(servicer: CertificateServicer) -> Served:
    return Served(
        auth_pb2_grpc.add_CertificateServiceServicer_to_server,
        servicer,
        auth_pb2.DESCRIPTOR.services_by_name["CertificateService"],
    )


def _open_signing_keys(settings: AuthSettings) -> FileSigningKeys:
    return FileSigningKeys(
        settings.state_dir / _SIGNING_KEYS,
        _now,
        rotate_after=timedelta(days=settings.signing_key_days),
        publish_before=_PUBLISH_BEFORE,
        longest_token=timedelta(seconds=max(MAX_JOB_SECONDS, settings.access_token_seconds)),
    )


async def _keep_up(
    signing_keys: FileSigningKeys, login: Login, auditor: Auditor, audit_life: timedelta
) -> None:
    """Rotates the signing key when it is due, and forgets what has run out."""
    while True:
        try:
            await asyncio.to_thread(signing_keys.rotate)
            await login.forget_expired()
            await auditor.forget(_now() - audit_life)
        except Exception:
            # A full disk, say: the present key goes on signing, and the next round tries again.
            log.exception("upkeep failed")
        await asyncio.sleep(_UPKEEP_SECONDS)


def _now() -> datetime:
    return datetime.now(UTC)
