"""Credentials for tokens: passwords, API keys, refresh tokens.

Every way in fails alike (CREDENTIAL_INVALID), whatever was wrong. What is written to the audit is
bounded by what can be checked: logins past the limit of failures, and credentials that name
nobody, leave no event.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from lepton_auth import api_keys
from lepton_auth.accounts import MAX_PASSWORD, workspaces_to_tell
from lepton_auth.audit import Attempt, Auditor
from lepton_auth.errors import (
    CredentialInvalid,
    LoginBusy,
    WorkspaceDenied,
    WorkspaceRequired,
)
from lepton_auth.ports import Passwords, Records, Store
from lepton_auth.records import RefreshToken, User
from lepton_auth.throttle import Throttle
from lepton_auth.tokens import API_KEY, PASSWORD, TokenMint
from lepton_mesh.caller import Role
from lepton_mesh.disk import DiskFull
from lepton_mesh.resources import ID_PATTERN

log = logging.getLogger(__name__)

ACTION = "token.issue"
_REUSED = "REFRESH_TOKEN_REUSED"
_REFRESH = re.compile(r"lpr_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Grant:
    """What a login gives."""

    access_token: str = field(repr=False)
    expires: datetime
    refresh_token: str = field(repr=False)
    """"" for API keys."""
    workspace: str
    role: Role


class Login:
    """Exchanges credentials for tokens."""

    def __init__(
        self,
        store: Store,
        passwords: Passwords,
        mint: TokenMint,
        auditor: Auditor,
        *,
        throttle: Throttle,
        clock: Callable[[], datetime],
        refresh_life: timedelta,
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._mint = mint
        self._auditor = auditor
        self._throttle = throttle
        self._clock = clock
        self._refresh_life = refresh_life

    async def with_password(self, user_id: str, password: str, workspace: str) -> Grant:
        """Raises CredentialInvalid, TooManyFailures, LoginBusy, WorkspaceRequired or -Denied.

        Takes as long for a user that does not exist as for a wrong password.
        """
        if not re.fullmatch(ID_PATTERN, user_id) or len(password) > MAX_PASSWORD:
            raise CredentialInvalid
        self._throttle.begin(user_id)
        user, roles = await self._store.read(lambda records: _user_and_roles(records, user_id))
        attempt = _attempt(user_id, workspaces_to_tell(roles), user_id)
        try:
            right = await self._passwords.verify(user.password_hash if user else None, password)
        except LoginBusy:
            self._throttle.undo(user_id)
            raise
        if user is None:  # nothing is written: names can be made up for ever
            raise CredentialInvalid
        if not right or user.disabled:
            await self._auditor.refused(attempt, CredentialInvalid.reason)
            raise CredentialInvalid
        self._throttle.succeeded(user_id)
        target = await self._workspace(attempt, roles, workspace)
        attempt = replace(attempt, workspaces=(target,))
        stronger = None
        if self._passwords.outdated(user.password_hash):
            stronger = await self._passwords.hash(password)
        text, token = self._refresh_token(user_id, target, family=secrets.token_hex(16))

        def begin(records: Records) -> None:
            # The password may have changed, or the user been disabled, while it was checked.
            current = records.users.get(user_id)
            if current is None or current.disabled or current.password_hash != user.password_hash:
                raise CredentialInvalid
            if stronger:
                records.users.replace(replace(current, password_hash=stronger))
            records.refresh_tokens.add(token)

        await self._auditor.change(attempt, begin)
        return self._grant(user_id, target, roles[target], PASSWORD, text)

    async def with_api_key(self, secret: str, workspace: str) -> Grant:
        """Raises CredentialInvalid or WorkspaceDenied; writes at most once a minute for one key.

        On a full disk nothing is written, the event in the audit included: whoever is to make room
        must get in.
        """
        parsed = api_keys.parse_secret(secret)
        if parsed is None:
            raise CredentialInvalid
        key_id, digest = parsed
        now = self._clock()
        key = await self._store.read(lambda records: records.api_keys.get(key_id))
        good = api_keys.holds(key, digest, now)
        if key is None:
            raise CredentialInvalid
        user, roles = await self._store.read(lambda records: _user_and_roles(records, key.user))
        role = min(key.role, roles.get(key.workspace, Role.NONE))
        attempt = _attempt(key.user, (key.workspace,), key.user, key.name)
        if not good or user is None or user.disabled or role is Role.NONE:
            # Nobody can guess 256 bits; this bounds how much a wrong secret can write.
            self._throttle.begin(key.name)
            await self._auditor.refused(attempt, CredentialInvalid.reason)
            raise CredentialInvalid
        if workspace and workspace != key.workspace:
            await self._auditor.refused(attempt, WorkspaceDenied.reason)
            raise WorkspaceDenied(
                f"the API key belongs to workspace '{key.workspace}', not '{workspace}'",
                workspace=workspace,
            )
        minute = now.replace(second=0, microsecond=0)
        if key.last_used is None or key.last_used < minute:
            try:
                await self._auditor.change(
                    attempt, lambda records: records.api_keys.touch(key_id, minute)
                )
            except DiskFull as error:
                log.warning(
                    "use of an API key not recorded",
                    extra={"key": key.name, "error": error.message},
                )
        return self._grant(key.user, key.workspace, role, API_KEY, "")

    async def with_refresh_token(self, text: str, workspace: str) -> Grant:
        """Trades a refresh token, once. One that was used before ends its whole family.

        Raises CredentialInvalid or WorkspaceDenied; the latter does not use the token up.
        """
        if not _REFRESH.fullmatch(text):
            raise CredentialInvalid
        digest = _digest(text)
        token = await self._store.read(lambda records: records.refresh_tokens.get(digest))
        if token is None:
            raise CredentialInvalid
        user, roles = await self._store.read(lambda records: _user_and_roles(records, token.user))
        attempt = _attempt(token.user, (token.workspace,), token.user)
        if user is None or user.disabled or self._clock() >= token.expires:
            await self._auditor.refused(attempt, CredentialInvalid.reason)
            raise CredentialInvalid
        target = await self._workspace(attempt, roles, workspace or token.workspace)
        attempt = replace(attempt, workspaces=(target,))
        next_text, following = self._refresh_token(token.user, target, family=token.family)

        def trade(records: Records) -> bool:
            current = records.users.get(token.user)
            seen = records.refresh_tokens.use(digest)
            if current is None or current.disabled or seen is None:  # changed meanwhile
                self._auditor.record(records, attempt, CredentialInvalid.reason)
                return False
            if seen.used:  # two hold it, and one of them stole it
                records.refresh_tokens.revoke_family(token.family)
                self._auditor.record(records, attempt, _REUSED)
                return False
            records.refresh_tokens.add(following)
            self._auditor.record(records, attempt)
            return True

        # Returned, not raised: the revocation must be kept.
        if not await self._store.write(trade):
            raise CredentialInvalid
        return self._grant(token.user, target, roles[target], PASSWORD, next_text)

    async def forget_expired(self) -> int:
        """Deletes refresh tokens that have run out; returns how many."""
        now = self._clock()
        return await self._store.write(lambda records: records.refresh_tokens.delete_expired(now))

    async def _workspace(self, attempt: Attempt, roles: Mapping[str, Role], asked: str) -> str:
        if asked in roles:
            return asked
        if asked:
            await self._auditor.refused(attempt, WorkspaceDenied.reason)
            raise WorkspaceDenied(
                f"you have no role in workspace '{asked}'; ask one of its admins", workspace=asked
            )
        if len(roles) != 1:
            await self._auditor.refused(attempt, WorkspaceRequired.reason)
            raise WorkspaceRequired(
                f"say which workspace to work in: {', '.join(sorted(roles))}"
                if roles
                else "you have no role in any workspace; ask an admin for one"
            )
        return next(iter(roles))

    def _refresh_token(self, user: str, workspace: str, family: str) -> tuple[str, RefreshToken]:
        text = f"lpr_{secrets.token_urlsafe(32)}"
        expires = self._clock() + self._refresh_life
        return text, RefreshToken(_digest(text), family, user, workspace, expires)

    def _grant(self, user: str, workspace: str, role: Role, method: str, refresh: str) -> Grant:
        token, expires = self._mint.user_token(user, workspace, role, method)
        return Grant(token, expires, refresh, workspace, role)


def _user_and_roles(records: Records, user_id: str) -> tuple[User | None, Mapping[str, Role]]:
    return records.users.get(user_id), records.users.roles(user_id)


def _attempt(subject: str, workspaces: tuple[str, ...], user: str, resource: str = "") -> Attempt:
    return Attempt(f"users/{subject}", workspaces, ACTION, resource or f"users/{user}")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
