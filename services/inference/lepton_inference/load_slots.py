"""Whose model is loaded next: few are at once, and workspaces take turns."""

from __future__ import annotations

import asyncio
from collections import Counter


class LoadSlots:
    """Lives on one event loop.

    Whoever has fewest loads goes first, and of those who came first: a workspace has a second one
    only while no other waits for its first.

    Args:
        most: Loads at a time.
        most_each: Loads of one workspace at a time, so that some that do not end leave others a
            slot.
    """

    def __init__(self, most: int, most_each: int) -> None:
        self.free = most
        """Slots that nobody has."""
        self._most_each = most_each
        self._loads: Counter[str] = Counter()
        """Workspace -> how many of its loads go on; none who have none."""
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []
        """In the order in which they came."""

    async def take(self, workspace: str) -> None:
        """Returns once a model of the workspace may be loaded; :meth:`give` the slot back."""
        granted = asyncio.get_running_loop().create_future()
        entry = (workspace, granted)
        self._waiting.append(entry)
        self._grant()
        try:
            await granted
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
                self._grant()
            else:
                self.give(workspace)
            raise

    def give(self, workspace: str) -> None:
        """Lets another load have the slot."""
        self._loads[workspace] -= 1
        if not self._loads[workspace]:
            del self._loads[workspace]
        self.free += 1
        self._grant()

    def _grant(self) -> None:
        while self.free:
            # Those whose task is about to hear that it is cancelled take nothing any more.
            may = [
                entry
                for entry in self._waiting
                if not entry[1].done() and self._loads[entry[0]] < self._most_each
            ]
            if not may:
                return
            entry = min(may, key=lambda each: self._loads[each[0]])
            self._waiting.remove(entry)
            workspace, granted = entry
            self.free -= 1
            self._loads[workspace] += 1
            granted.set_result(None)
