"""A limit on guessing: so many failures for one name in one window, then none until it ends."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from lepton_auth.errors import TooManyFailures

_MAX_NAMES = 10_000
"""Names remembered, so that memory is bounded: see :meth:`Throttle._make_room`."""
_SWEEP = 64
"""Windows looked at for one that may go, where the oldest still counts."""


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
            self._make_room(now)

    def succeeded(self, name: str) -> None:
        """Forgets the failures of ``name``."""
        self._windows.pop(name, None)

    def undo(self, name: str) -> None:
        """Takes back an attempt that was not checked after all."""
        window = self._windows.get(name)
        if window is None:
            return
        window.attempts -= 1
        if window.attempts <= 0:
            del self._windows[name]

    def _make_room(self, now: float) -> None:
        """Forgets what has run out; else the least-tried of the longest untouched.

        A name that is at its limit is the last to go: who makes up names gains no guesses.
        """
        oldest = list(itertools.islice(self._windows.items(), _SWEEP))
        ended = [name for name, window in oldest if window.ends <= now]
        for name in ended:
            del self._windows[name]
        if not ended:
            name, _ = min(oldest, key=lambda one: one[1].attempts)
            del self._windows[name]
