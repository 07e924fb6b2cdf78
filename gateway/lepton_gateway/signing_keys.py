"""The auth service's signing keys (JWKS), asked for again and again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from lepton_mesh.durable import write_private

log = logging.getLogger(__name__)

FETCH_TIMEOUT_SECONDS = 5.0
_RETRY_SECONDS = 0.5
Jwks = dict[str, Any]


class SigningKeys:
    """Calls ``changed(jwks)`` with the first key set, and whenever another one comes.

    The last set is kept in ``cache_file`` (public keys only), so that a gateway which is started
    while the auth service is away still verifies tokens.

    Args:
        fetch: Asks the auth service; any failure of it is logged and means "later again".
        changed: Takes the set in effect; called in the event loop. A set that it raises for is
            handed to it again when the auth service was asked the next time.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Jwks]],
        changed: Callable[[Jwks], None],
        cache_file: Path,
        refresh_seconds: float,
    ) -> None:
        self._fetch = fetch
        self._changed = changed
        self._cache_file = cache_file
        self._refresh_seconds = refresh_seconds
        self._current: Jwks | None = None
        self._stored: Jwks | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns at once, with the cached set in effect if there is one."""
        with contextlib.suppress(OSError, ValueError):
            cached = json.loads(await asyncio.to_thread(self._cache_file.read_text))
            if isinstance(cached, dict):
                self._stored = cached
                self._apply(cached)
        self._task = asyncio.create_task(self._follow(), name="signing keys")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            # Whatever fails, a gateway that stopped asking would refuse all new tokens.
            try:
                async with asyncio.timeout(FETCH_TIMEOUT_SECONDS):
                    found = await self._fetch()
            except Exception as error:
                log.warning("signing keys not fetched", extra={"error": str(error)})
            else:
                await self._take(found)
            waiting = self._current is None
            await asyncio.sleep(_RETRY_SECONDS if waiting else self._refresh_seconds)

    async def _take(self, found: Jwks) -> None:
        try:
            self._apply(found)
        except Exception as error:
            log.warning("signing keys fetched but not applied", extra={"error": str(error)})
        if self._current in (None, self._stored):
            return
        try:
            await asyncio.to_thread(
                write_private, self._cache_file, json.dumps(self._current).encode()
            )
            self._stored = self._current
        except OSError as error:
            log.warning("signing keys not kept for a restart", extra={"error": str(error)})

    def _apply(self, found: Jwks) -> None:
        if found.get("keys") and found != self._current:
            self._changed(found)
            # Only now: a set that could not be applied is applied at the next turn.
            self._current = found
