"""Wakes those who wait for something to happen to an endpoint."""

from __future__ import annotations

import asyncio
from collections import defaultdict


class Changes:
    """An endpoint's key -> who waits for it; for one event loop."""

    def __init__(self) -> None:
        self._waiters: defaultdict[tuple[str, str], set[asyncio.Event]] = defaultdict(set)

    def notify(self, workspace: str, endpoint_id: str) -> None:
        """Wakes everyone who waits for this endpoint now."""
        for waiter in self._waiters.pop((workspace, endpoint_id), ()):
            waiter.set()

    def waiter(self, workspace: str, endpoint_id: str) -> asyncio.Event:
        """An event that the next change sets. Take it before looking at what there is."""
        event = asyncio.Event()
        self._waiters[(workspace, endpoint_id)].add(event)
        return event

    def forget(self, workspace: str, endpoint_id: str, event: asyncio.Event) -> None:
        """For a waiter that waits no more."""
        key = workspace, endpoint_id
        self._waiters[key].discard(event)
        if not self._waiters[key]:
            del self._waiters[key]
