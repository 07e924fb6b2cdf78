"""API keys for tokens: services see short-lived tokens only."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from lepton_mesh.errors import ResourceExhausted

MAX_KEYS = 10_000
"""Keys whose tokens are held at a time; the one unused for longest makes room."""
MAX_RUNNING = 64
"""Exchanges at a time: made-up keys must not fill the auth service's queue."""
_MIN_LIFE_SECONDS = 60.0


class TooManyExchanges(ResourceExhausted):
    reason = "TOO_MANY_EXCHANGES"


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """An access token, and when it ends (Unix seconds)."""

    token: str
    expires: float


class ApiKeyExchange:
    """Trades API keys for access tokens and holds each token for a short while.

    Keys are held as SHA-256 digests. Requests that bring the same key while it is being
    exchanged wait for the one exchange.

    Args:
        issue: Asks the auth service; its errors go to the caller and are not held.
        hold_seconds: How long a token is used again, and so how long a revoked key may work.
    """

    def __init__(
        self,
        issue: Callable[[str], Awaitable[IssuedToken]],
        hold_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issue = issue
        self._hold_seconds = hold_seconds
        self._clock = clock
        self._held: OrderedDict[bytes, tuple[str, float]] = OrderedDict()
        self._running: dict[bytes, asyncio.Task[IssuedToken]] = {}

    async def token(self, api_key: str) -> str:
        """A token that is good for a while.

        Raises:
            TooManyExchanges: Many keys that are not known yet came at once.
            LeptonError: What the auth service answers.
        """
        digest = hashlib.sha256(api_key.encode()).digest()
        held = self._held.get(digest)
        if held is not None and self._clock() < held[1]:
            self._held.move_to_end(digest)
            return held[0]
        running = self._running.get(digest)
        if running is None:
            if len(self._running) >= MAX_RUNNING:
                raise TooManyExchanges("too many API keys are being checked; try again in a moment")
            running = asyncio.create_task(self._exchange(digest, api_key))
            self._running[digest] = running
            running.add_done_callback(lambda _: self._running.pop(digest, None))
        # Shielded: a caller that leaves must not take the exchange from those who wait with it.
        return (await asyncio.shield(running)).token

    async def _exchange(self, digest: bytes, api_key: str) -> IssuedToken:
        self._held.pop(digest, None)
        issued = await self._issue(api_key)
        now = self._clock()
        until = min(issued.expires - _MIN_LIFE_SECONDS, now + self._hold_seconds)
        if until > now:
            self._held[digest] = (issued.token, until)
            if len(self._held) > MAX_KEYS:
                self._held.popitem(last=False)
        return issued
