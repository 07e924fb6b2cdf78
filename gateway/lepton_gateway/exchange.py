"""API keys for tokens: services see short-lived tokens only."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from lepton_mesh import api_keys
from lepton_mesh.errors import ResourceExhausted, Unauthenticated

MAX_KEYS = 10_000
"""Keys whose tokens, or whose refusals, are held at a time; the longest unused makes room."""
MAX_RUNNING = 64
"""Exchanges at a time: made-up keys must not fill the auth service's queue."""
MAX_RUNNING_PER_ADDRESS = 8
"""Those of one client address: it must not keep all others from exchanging theirs."""
REFUSED_SECONDS = 5.0
"""How long a key that was refused is refused without asking again."""
_MIN_LIFE_SECONDS = 60.0
Held = TypeVar("Held")


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
        issue: Asks the auth service; its errors go to the caller, and refusals are held for
            a few seconds.
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
        self._refused: OrderedDict[bytes, tuple[Unauthenticated, float]] = OrderedDict()
        self._running: dict[bytes, asyncio.Task[IssuedToken]] = {}
        self._running_from: Counter[str] = Counter()

    async def token(self, api_key: str, address: str) -> str:
        """A token that is good for a while.

        Args:
            api_key: What the client sent.
            address: The client's IP address.

        Raises:
            Unauthenticated: It is no key, or the auth service knows none like it.
            TooManyExchanges: Many keys that are not known yet came at once, in all or from this
                address.
            LeptonError: What the auth service answers.
        """
        if api_keys.FORM.fullmatch(api_key) is None:
            raise Unauthenticated("the API key is not valid: it does not look like one")
        digest = hashlib.sha256(api_key.encode()).digest()
        held = self._held.get(digest)
        if held is not None and self._clock() < held[1]:
            self._held.move_to_end(digest)
            return held[0]
        refused = self._refused.get(digest)
        if refused is not None and self._clock() < refused[1]:
            # Without those who met it before: the traceback would grow with each of them.
            raise refused[0].with_traceback(None)
        running = self._running.get(digest) or self._start(digest, api_key, _client(address))
        # Shielded: a caller that leaves must not take the exchange from those who wait with it.
        return (await asyncio.shield(running)).token

    def _start(self, digest: bytes, api_key: str, client: str) -> asyncio.Task[IssuedToken]:
        if (
            len(self._running) >= MAX_RUNNING
            or self._running_from[client] >= MAX_RUNNING_PER_ADDRESS
        ):
            raise TooManyExchanges("too many API keys are being checked; try again in a moment")
        running = asyncio.create_task(self._exchange(digest, api_key))
        self._running[digest] = running
        self._running_from[client] += 1
        running.add_done_callback(lambda _: self._ended(digest, client))
        return running

    def _ended(self, digest: bytes, client: str) -> None:
        del self._running[digest]
        self._running_from[client] -= 1
        if not self._running_from[client]:
            del self._running_from[client]

    async def _exchange(self, digest: bytes, api_key: str) -> IssuedToken:
        self._held.pop(digest, None)
        self._refused.pop(digest, None)
        try:
            issued = await self._issue(api_key)
        except Unauthenticated as error:
            _keep(self._refused, digest, (error, self._clock() + REFUSED_SECONDS))
            raise
        now = self._clock()
        until = min(issued.expires - _MIN_LIFE_SECONDS, now + self._hold_seconds)
        if until > now:
            _keep(self._held, digest, (issued.token, until))
        return issued


def _keep(held: OrderedDict[bytes, Held], digest: bytes, value: Held) -> None:
    held[digest] = value
    if len(held) > MAX_KEYS:
        held.popitem(last=False)


def _client(address: str) -> str:
    """What one client is: an IPv4 address, or the /64 that IPv6 gives each of them."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if found.version == 4:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False))
