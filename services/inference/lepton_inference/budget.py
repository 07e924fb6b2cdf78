"""How many bytes of request bodies one instance holds at once, over all its callers."""

from __future__ import annotations

from lepton_mesh.errors import ResourceExhausted

PUBLIC_BODY_BYTES = 4096
"""The largest body taken of a caller who need not say who they are."""


class BodiesTooMany(ResourceExhausted):
    """The bodies that are held already leave no room for another."""

    reason = "BODIES_TOO_MANY"


class Budget:
    """Counts the bytes that are held; for one event loop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.held = 0
        """Bytes, of all requests."""

    def take(self, size: int) -> None:
        """Raises BodiesTooMany, and counts nothing, where ``size`` bytes more are too many."""
        if self.held + size > self._limit:
            raise BodiesTooMany(
                f"the server holds {self.held} bytes of requests and may hold {self._limit}; try "
                "again in a moment",
                limit=self._limit,
            )
        self.held += size

    def give(self, size: int) -> None:
        """Counts them no more."""
        self.held -= size


class Held:
    """One request's share. Give it back with :meth:`release`, whatever comes."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._size = 0
        self._released = False

    def add(self, size: int) -> None:
        """Raises BodiesTooMany."""
        self._budget.take(size)
        self._size += size

    def keep(self, size: int) -> None:
        """Gives back all but ``size`` bytes; nothing where everything was given back already."""
        if self._released:
            return
        self._budget.give(self._size - size)
        self._size = size

    def release(self) -> None:
        """Gives back everything."""
        self.keep(0)
        self._released = True
