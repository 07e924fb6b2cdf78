"""Ending what runs on a thread for somebody who does not wait for it any more."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


class Interruption:
    """Comes once, and for good. May be asked and made on any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._came = False
        self._ends: dict[object, Callable[[], None]] = {}

    @property
    def came(self) -> bool:
        """Whether it came already."""
        return self._came

    @contextlib.contextmanager
    def during(self, end: Callable[[], None]) -> Iterator[None]:
        """Has ``end`` called if the interruption comes inside of the block, or came before."""
        key = object()
        with self._lock:
            self._ends[key] = end
            if self._came:
                end()
        try:
            yield
        finally:
            with self._lock:
                del self._ends[key]

    def interrupt(self) -> None:
        """Ends what runs now, and what is still to come."""
        with self._lock:
            self._came = True
            for end in self._ends.values():
                end()
