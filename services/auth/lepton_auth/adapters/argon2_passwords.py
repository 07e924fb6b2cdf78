"""argon2id (RFC 9106) in a small pool of threads, with a bounded queue."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import argon2

from lepton_auth.errors import LoginBusy

T = TypeVar("T")


class Argon2Passwords:
    """Hashes at most ``concurrency`` at a time; each takes 64 MiB and tens of milliseconds."""

    def __init__(
        self,
        concurrency: int,
        max_waiting: int,
        hasher: argon2.PasswordHasher | None = None,
    ) -> None:
        """The default hasher uses the second recommended option of RFC 9106 section 4."""
        self._hasher = hasher or argon2.PasswordHasher()
        self._executor = ThreadPoolExecutor(concurrency, thread_name_prefix="argon2")
        self._max_running = concurrency + max_waiting
        self._running = 0
        # Verified for users that do not exist, so that the answer takes as long.
        self._decoy = self._hasher.hash("of nobody")

    async def hash(self, password: str) -> str:
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, stored: str | None, password: str) -> bool:
        return await self._run(lambda: self._matches(stored or self._decoy, password)) and (
            stored is not None
        )

    def outdated(self, stored: str) -> bool:
        return self._hasher.check_needs_rehash(stored)

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _matches(self, stored: str, password: str) -> bool:
        try:
            return self._hasher.verify(stored, password)
        except argon2.exceptions.VerifyMismatchError:
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._running >= self._max_running:
            raise LoginBusy("too many logins wait to be checked; try again in a moment")
        self._running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, work)
        finally:
            self._running -= 1
