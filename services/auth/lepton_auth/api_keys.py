"""API keys: ``lpk_<id>_<secret>``, of which only a SHA-256 of the secret is kept.

The secret has 256 random bits, so a fast hash keeps it as safe as a slow one would.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime

from lepton_auth.audit import Attempt, Auditor
from lepton_auth.errors import (
    ApiKeyNotFound,
    InvalidApiKey,
    RoleAboveOwn,
)
from lepton_auth.ports import Records, Store
from lepton_auth.records import ApiKey, check_display_name
from lepton_auth.standing import require_password, require_standing
from lepton_mesh.api_keys import FORM
from lepton_mesh.caller import Caller, Role


class KeyRing:
    """The API keys of callers."""

    def __init__(self, store: Store, auditor: Auditor, clock: Callable[[], datetime]) -> None:
        self._store = store
        self._auditor = auditor
        self._clock = clock

    async def create(
        self,
        caller: Caller,
        display_name: str,
        role: Role,
        expires: datetime | None,
        *,
        by_password: bool,
    ) -> tuple[ApiKey, str]:
        """A new key of the caller and its text, which is not kept.

        Args:
            role: ``Role.NONE`` means the caller's own.
            expires: None means never.
            by_password: Whether the caller's own token came from a password. A key must not
                outlive itself by making others.
        """
        check_display_name(display_name)
        now = self._clock()
        if expires is not None and expires <= now:
            raise InvalidApiKey("expire_time is in the past; leave it out for a key without end")
        secret = secrets.token_urlsafe(32)
        key = ApiKey(
            id=secrets.token_hex(8),
            user=caller.subject.removeprefix("users/"),
            workspace=caller.workspace,
            role=role or caller.role,
            display_name=display_name,
            secret_digest=_digest(secret),
            created=now,
            expires=expires,
            last_used=None,
        )

        def create(records: Records) -> ApiKey:
            require_password(by_password, "create further keys")
            if role > caller.role:
                raise RoleAboveOwn(
                    f"a key may have at most your own role, '{caller.role.name.lower()}'"
                )
            require_standing(records, caller, key.role)
            records.api_keys.add(key)
            return key

        await self._auditor.change(_attempt(caller, "apiKey.create", key.name), create)
        return key, f"lpk_{key.id}_{secret}"

    async def list(
        self, caller: Caller, before: tuple[datetime, str] | None, limit: int
    ) -> Sequence[ApiKey]:
        """The caller's keys in its workspace, newest first."""
        user = caller.subject.removeprefix("users/")
        return await self._store.read(
            lambda records: records.api_keys.of_user(caller.workspace, user, before, limit)
        )

    async def delete(self, caller: Caller, key_id: str) -> None:
        """Revokes a key: one's own, or as admin any of the workspace."""

        def delete(records: Records) -> None:
            require_standing(records, caller, caller.role)
            key = records.api_keys.get(key_id)
            if (
                key is None
                or key.workspace != caller.workspace
                or (caller.role < Role.ADMIN and caller.subject != f"users/{key.user}")
            ):
                raise ApiKeyNotFound(f"API key '{key_id}' is not among yours", api_key=key_id)
            records.api_keys.delete(key_id)

        await self._auditor.change(_attempt(caller, "apiKey.delete", f"apiKeys/{key_id}"), delete)


def parse_secret(text: str) -> tuple[str, bytes] | None:
    """Id and secret digest of a key's text; None if it cannot be one."""
    match = FORM.fullmatch(text)
    return (match[1], _digest(match[2])) if match else None


def holds(key: ApiKey | None, digest: bytes, now: datetime) -> bool:
    """Whether ``digest`` is that of ``key`` and the key has not run out."""
    stored = key.secret_digest if key else bytes(len(digest))
    same = hmac.compare_digest(stored, digest)
    return key is not None and same and (key.expires is None or now < key.expires)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _attempt(caller: Caller, action: str, resource: str) -> Attempt:
    return Attempt(caller.subject, (caller.workspace,), action, resource)
