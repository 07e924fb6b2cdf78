"""Wakes those who wait for something to happen to an endpoint."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Changes:
    """An endpoint's key -> who waits for it; for one event loop."""

    def __init__(self) -> None:
        self._waiters: defaultdict[tuple[str, str], set[asyncio.Event]] = defaultdict(set)

    def notify(self, workspace: str, endpoint_id: str) -> None:
        """Wakes everyone who waits for this endpoint now."""
        for waiter in self._waiters.get((workspace, endpoint_id), ()):
            waiter.set()

    @contextmanager
    def watch(self, workspace: str, *endpoint_ids: str) -> Iterator[asyncio.Event]:
        """An event that each change of any of these endpoints sets.

        Clear it before looking at what there is, then wait for it.
        """
        event = asyncio.Event()
        keys = [(workspace, endpoint_id) for endpoint_id in endpoint_ids]
        for key in keys:
            self._waiters[key].add(event)
        try:
            yield event
        finally:
            for key in keys:
                self._waiters[key].discard(event)
                if not self._waiters[key]:
                    del self._waiters[key]
