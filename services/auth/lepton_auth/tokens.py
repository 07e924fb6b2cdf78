"""Access tokens: what is in them and how long they live."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from lepton_auth.errors import InvalidLifetime
from lepton_auth.ports import Signer
from lepton_mesh.caller import Role
from lepton_mesh.claims import Claims

METHOD_CLAIM = "amr"
"""How the user logged in (RFC 8176)."""
PASSWORD = "pwd"  # noqa: S105  a login method's name (RFC 8176), not a password
API_KEY = "key"

MIN_JOB_SECONDS = 60
MAX_JOB_SECONDS = 7 * 24 * 3600
DEFAULT_JOB_SECONDS = 24 * 3600


class TokenMint:
    """Makes access tokens for users and for jobs."""

    def __init__(self, signer: Signer, clock: Callable[[], datetime], life: timedelta) -> None:
        """``life`` is that of a user's token."""
        self._signer = signer
        self._clock = clock
        self._life = life

    def user_token(
        self, user: str, workspace: str, role: Role, method: str
    ) -> tuple[str, datetime]:
        """A token of user id ``user`` and when it runs out; ``method`` is how it logged in."""
        now = self._clock()
        claims = Claims(
            subject=f"users/{user}",
            kind="user",
            workspace=workspace,
            role=role,
            expires=int((now + self._life).timestamp()),
            token_id=secrets.token_hex(16),
        )
        return self._sign(claims, now, method)

    def job_token(
        self,
        workspace: str,
        job: str,
        *,
        reads: Iterable[str],
        writes: Iterable[str],
        ttl_seconds: int = 0,
    ) -> tuple[str, datetime]:
        """A token with which ``jobs/<id>`` may touch these resources only, and when it runs out.

        Raises InvalidLifetime unless ``ttl_seconds`` is 0 (one day) or within a minute and a week.
        """
        seconds = ttl_seconds or DEFAULT_JOB_SECONDS
        if not MIN_JOB_SECONDS <= seconds <= MAX_JOB_SECONDS:
            raise InvalidLifetime(
                f"ttl_seconds {ttl_seconds} is out of range; use {MIN_JOB_SECONDS} to "
                f"{MAX_JOB_SECONDS}"
            )
        now = self._clock()
        claims = Claims(
            subject=job,
            kind="job",
            workspace=workspace,
            role=Role.NONE,
            expires=int((now + timedelta(seconds=seconds)).timestamp()),
            reads=frozenset(reads),
            writes=frozenset(writes),
            token_id=secrets.token_hex(16),
        )
        return self._sign(claims, now, "")

    def _sign(self, claims: Claims, now: datetime, method: str) -> tuple[str, datetime]:
        token = self._signer.sign(claims, issued=now, method=method)
        return token, datetime.fromtimestamp(claims.expires, now.tzinfo)
