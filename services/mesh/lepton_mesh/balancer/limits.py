"""How often to repeat, and how long to wait before doing so."""

from __future__ import annotations

from collections import deque


class RetryBudget:
    """Tokens that retries and hedges spend and successes earn (after gRPC proposal A6).

    While most calls succeed there are always tokens; when everything fails,
    repeating ends after ``capacity`` of them and adds at most ``refill`` of the
    traffic, so that an overloaded service is not made worse.

    Args:
        capacity: The most tokens that can be saved up.
        refill: What one success earns.
    """

    def __init__(self, capacity: float = 40.0, refill: float = 0.1) -> None:
        self._capacity = capacity
        self._refill = refill
        self._tokens = capacity

    @property
    def tokens(self) -> float:
        return self._tokens

    def take(self) -> bool:
        """Spends a token; False when there is none."""
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def earn(self) -> None:
        """A call succeeded."""
        self._tokens = min(self._capacity, self._tokens + self._refill)


class HedgeDelay:
    """When a read is late: the 95th percentile of its recent latencies.

    Seconds; ``initial`` until twenty calls were seen, always within ``least`` and ``most``.
    """

    def __init__(self, initial: float = 0.1, least: float = 0.02, most: float = 1.0) -> None:
        self._least = least
        self._most = most
        self._recent: deque[float] = deque(maxlen=128)
        self._since = 0
        self._delay = initial

    @property
    def seconds(self) -> float:
        return self._delay

    def observe(self, seconds: float) -> None:
        self._recent.append(seconds)
        self._since += 1
        if self._since >= 20:  # sorting 128 numbers on every call would cost more than it tells
            self._since = 0
            ordered = sorted(self._recent)
            late = ordered[int(0.95 * (len(ordered) - 1))]
            self._delay = min(self._most, max(self._least, late))
