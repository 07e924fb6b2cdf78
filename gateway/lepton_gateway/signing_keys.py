"""The auth service's signing keys (JWKS), asked for again and again."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

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
        changed: Takes the set in effect; called in the event loop.
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
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns at once, with the cached set in effect if there is one."""
        with contextlib.suppress(OSError, ValueError):
            self._apply(json.loads(await asyncio.to_thread(self._cache_file.read_text)))
        self._task = asyncio.create_task(self._follow(), name="signing keys")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            pause = _RETRY_SECONDS if self._current is None else self._refresh_seconds
            try:
                async with asyncio.timeout(FETCH_TIMEOUT_SECONDS):
                    found = await self._fetch()
                if self._apply(found):
                    await asyncio.to_thread(self._store, found)
                pause = self._refresh_seconds
            except Exception as error:
                # Whatever it was, a gateway that stopped asking would refuse all new tokens.
                log.warning("the signing keys were not fetched: %s", error)
            await asyncio.sleep(pause)

    def _apply(self, found: Jwks) -> bool:
        if not found.get("keys") or found == self._current:
            return False
        self._current = found
        self._changed(found)
        return True

    def _store(self, jwks: Jwks) -> None:
        temporary = self._cache_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(jwks))
        temporary.replace(self._cache_file)
