"""A limit on guessing: so many failures for one name in one window, then none until it ends."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from lepton_auth.errors import TooManyFailures

_MAX_NAMES = 10_000
"""Names remembered; the longest untouched is forgotten first, so memory is bounded."""


@dataclass(slots=True)
class _Window:
    ends: float
    attempts: int = 0


class Throttle:
    """Counts attempts per name in memory; a success clears the name.

    An attempt counts when it begins, so that many at once cannot slip past the limit. Names
    that do not exist count as well: the answer must not tell them apart.
    """

    def __init__(self, limit: int, window_seconds: float, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._window_seconds = window_seconds
        self._clock = clock
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def begin(self, name: str) -> None:
        """Counts an attempt; raises TooManyFailures if ``name`` has none left."""
        now = self._clock()
        window = self._windows.get(name)
        if window is None or window.ends <= now:
            window = self._windows[name] = _Window(now + self._window_seconds)
        self._windows.move_to_end(name)
        if window.attempts >= self._limit:
            seconds = math.ceil(window.ends - now)
            raise TooManyFailures(
                f"too many failed attempts; try again in {seconds} s", retry_after_seconds=seconds
            )
        window.attempts += 1
        if len(self._windows) > _MAX_NAMES:
            self._windows.popitem(last=False)

    def succeeded(self, name: str) -> None:
        """Forgets the failures of ``name``."""
        self._windows.pop(name, None)

    def undo(self, name: str) -> None:
        """Takes back an attempt that was not checked after all."""
        if window := self._windows.get(name):
            window.attempts = max(0, window.attempts - 1)
