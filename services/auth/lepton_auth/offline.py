"""Commands that work on the auth service's state directory, whether it runs or not.

    python -m lepton_auth init                            CA, database, first admin; JSON
    python -m lepton_auth join-token --service storage    prints a one-time token
    python -m lepton_auth issue --service etcd --out DIR  cert.pem, key.pem, ca.pem
    python -m lepton_auth api-key --user admin            prints a new API key's secret
    python -m lepton_auth reset-password --user admin     prints a new password
    python -m lepton_auth disable-user --user ada         ends a user's logins and keys

They read the service's own settings: ``LEPTON_STATE_DIR`` at least. Whoever may read that
directory may do all of this, so nothing else is asked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from lepton_auth.accounts import FIRST_WORKSPACE
from lepton_auth.adapters.argon2_passwords import Argon2Passwords
from lepton_auth.adapters.sql import SqlStore
from lepton_auth.api_keys import KeyRing
from lepton_auth.audit import Attempt, Auditor
from lepton_auth.authority_files import ensure_authority, load_authority
from lepton_auth.certificates import Certificates
from lepton_auth.config import AuthSettings
from lepton_auth.errors import UserNotFound
from lepton_auth.first_admin import FIRST_ADMIN, create_first_admin
from lepton_auth.joining import Joining
from lepton_auth.ports import Records
from lepton_mesh import credential_files
from lepton_mesh.caller import Caller, Role
from lepton_mesh.database import Database
from lepton_mesh.errors import LeptonError, NotFound
from lepton_mesh.identity import Issued
from lepton_mesh.pki import Credentials, Names, fingerprint, generate_key, key_pem
from lepton_mesh.spiffe import SpiffeId


class NoSuchMember(NotFound):
    reason = "NO_SUCH_MEMBER"


_OPERATOR = Caller("service", subject="services/supervisor", workspace=FIRST_WORKSPACE)
"""What the audit says of who used these commands."""


def main(arguments: Sequence[str]) -> int:
    """Runs one command; returns the exit status. A failure is one line on stderr."""
    options = _parser().parse_args(arguments)
    try:
        settings = AuthSettings.load("auth")
        print(asyncio.run(options.run(settings, options)))  # noqa: T201 - what a command is for
    except LeptonError as error:
        print(f"lepton_auth: {error.message}", file=sys.stderr)  # noqa: T201 - as above
        return 1
    return 0


async def init(settings: AuthSettings, _: argparse.Namespace) -> str:
    """Makes what is missing of CA, database and first admin; may be repeated.

    Returns:
        JSON; ``password`` is null when the admin existed already.
    """
    authority = await asyncio.to_thread(ensure_authority, settings.state_dir, settings.trust_domain)
    async with _open(settings) as opened:
        passwords = Argon2Passwords(concurrency=1, max_waiting=1)
        password = await create_first_admin(opened.store, passwords, opened.auditor, _now)
        passwords.close()
    return json.dumps(
        {
            "trust_domain": settings.trust_domain,
            "root_certificate": str(settings.state_dir / "root-ca" / "cert.pem"),
            "root_fingerprint": fingerprint(authority.root).hex(),
            "workspace": FIRST_WORKSPACE,
            "user": FIRST_ADMIN,
            "password": password,
        }
    )


async def join_token(settings: AuthSettings, options: argparse.Namespace) -> str:
    """A one-time token for a first certificate of a service, as text."""
    async with _open(settings) as opened:
        joining = Joining(
            opened.certificates, opened.store, opened.auditor, _now, settings.trust_domain
        )
        token = await joining.create_service_token(
            _OPERATOR, options.service, options.dns, options.ip, options.ttl_seconds
        )
    return token.text


async def issue(settings: AuthSettings, options: argparse.Namespace) -> str:
    """A key and certificate for any service, written to a directory; returns the directory."""
    names = Names(
        SpiffeId.for_service(settings.trust_domain, options.service),
        tuple(options.dns),
        tuple(options.ip),
    )
    key = generate_key()
    ttl = options.ttl_seconds or settings.certificate_seconds
    async with _open(settings, timedelta(seconds=ttl)) as opened:
        attempt = Attempt(
            _OPERATOR.subject,
            (FIRST_WORKSPACE,),
            "certificate.issue",
            f"services/{options.service}",
        )

        def issued(records: Records) -> Issued:
            return opened.certificates.issue(records, key.public_key(), names)

        result = await opened.auditor.change(attempt, issued)
    credentials = Credentials(key_pem(key), result.certificate_chain_pem, result.trust_bundle_pem)
    await asyncio.to_thread(credential_files.save, options.out, credentials)
    return str(options.out)


async def api_key(settings: AuthSettings, options: argparse.Namespace) -> str:
    """A new API key of a user, with the user's role in the workspace; returns its secret.

    Raises:
        NoSuchMember: The user has no role there.
    """
    async with _open(settings) as opened:
        roles = await opened.store.read(lambda records: records.users.roles(options.user))
        role = roles.get(options.workspace)
        if role is None:
            raise NoSuchMember(
                f"user '{options.user}' has no role in workspace '{options.workspace}'; "
                "name another with --user or --workspace"
            )
        caller = Caller(
            "user", subject=f"users/{options.user}", workspace=options.workspace, role=role
        )
        keys = KeyRing(opened.store, opened.auditor, _now)
        _, secret = await keys.create(
            caller, options.display_name, Role.NONE, None, by_password=True
        )
    return secret


async def reset_password(settings: AuthSettings, options: argparse.Namespace) -> str:
    """Gives a user a new password and ends its logins; returns the password.

    Raises:
        UserNotFound: There is no such user.
    """
    password = secrets.token_urlsafe(18)
    passwords = Argon2Passwords(concurrency=1, max_waiting=1)
    hashed = await passwords.hash(password)
    passwords.close()

    await _change_user(settings, options.user, "user.resetPassword", password_hash=hashed)
    return password


async def disable_user(settings: AuthSettings, options: argparse.Namespace) -> str:
    """Disables a user, whatever it is admin of; returns its name.

    Through the API nobody may who is no admin of all its workspaces, nor if it is a last admin.

    Raises:
        UserNotFound: There is no such user.
    """
    await _change_user(settings, options.user, "user.disable", disabled=True)
    return f"users/{options.user}"


async def _change_user(settings: AuthSettings, user_id: str, action: str, **fields: Any) -> None:
    def change(records: Records) -> None:
        user = records.users.get(user_id)
        if user is None:
            raise UserNotFound(f"there is no user '{user_id}'", user=user_id)
        records.users.replace(replace(user, revision=user.revision + 1, **fields))
        records.refresh_tokens.revoke_user(user.id)

    async with _open(settings) as opened:
        attempt = Attempt(_OPERATOR.subject, (FIRST_WORKSPACE,), action, f"users/{user_id}")
        await opened.auditor.change(attempt, change)


@dataclass(frozen=True, slots=True)
class _Opened:
    store: SqlStore
    auditor: Auditor
    certificates: Certificates


@asynccontextmanager
async def _open(settings: AuthSettings, ttl: timedelta | None = None) -> AsyncIterator[_Opened]:
    authority = await asyncio.to_thread(load_authority, settings.state_dir)
    database = await asyncio.to_thread(
        Database.open, settings.database_url, "lepton_auth.migrations"
    )
    try:
        store = SqlStore(database)
        auditor = Auditor(store, _now, lambda: "")
        ttl = ttl or timedelta(seconds=settings.certificate_seconds)
        yield _Opened(store, auditor, Certificates(authority, store, auditor, _now, ttl))
    finally:
        await asyncio.to_thread(database.close)


def _now() -> datetime:
    return datetime.now(UTC)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lepton_auth")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("init", help="make the CA, the database and the first admin")
    command.set_defaults(run=init)
    command = commands.add_parser("join-token", help="print a one-time token for a service")
    _add_names(command)
    command.set_defaults(run=join_token)
    command = commands.add_parser("issue", help="write a key and a certificate to a directory")
    _add_names(command)
    command.add_argument("--out", required=True, type=Path, help="the directory")
    command.set_defaults(run=issue)
    command = commands.add_parser("api-key", help="print the secret of a new API key")
    command.add_argument("--user", default=FIRST_ADMIN)
    command.add_argument("--workspace", default=FIRST_WORKSPACE)
    command.add_argument("--display-name", default="", help="what the key is for")
    command.set_defaults(run=api_key)
    command = commands.add_parser("reset-password", help="print a new password of a user")
    command.add_argument("--user", default=FIRST_ADMIN)
    command.set_defaults(run=reset_password)
    command = commands.add_parser("disable-user", help="end a user's logins and keys")
    command.add_argument("--user", required=True)
    command.set_defaults(run=disable_user)
    return parser


def _add_names(command: argparse.ArgumentParser) -> None:
    command.add_argument("--service", required=True)
    command.add_argument("--dns", action="append", default=[], help="a further DNS name")
    command.add_argument("--ip", action="append", default=[], help="an IP address")
    command.add_argument("--ttl-seconds", type=int, default=0, help="life; 0: the default")
