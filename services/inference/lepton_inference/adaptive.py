"""How long a batch should wait for company, found from what was measured.

A batch of n requests takes about ``fixed + n * each`` seconds, so a request that joins a batch
saves its ``fixed`` part, and waiting for it costs the time until it comes. Waiting therefore
pays while the time between two arrivals is shorter than the fixed part; and once nothing has
come for as long as one would have saved, it is over (the break-even rule of the ski rental
problem: never more than twice the cost of knowing the future). Neither depends on how many
wait already.

Event loops keep time in milliseconds: a shorter wait would be a busy one, which takes from the
requests what it gives to the batch. So where the fixed part is less than half of one, as it is
for small models on a CPU, nothing waits.

Both quantities are measured: the line through batch sizes and times by least squares, the
arrivals by their number in the last tenth of a second; older ones fade away.
"""

from __future__ import annotations

import math

_MEMORY_SECONDS = 0.1
"""How long arrivals count, fading."""
_SHORTEST_WAIT_SECONDS = 0.0005
_FADE = 0.98
"""What a batch's measurement is worth once the next one is there."""
_LEAST_SPREAD = 0.25
"""Variance of batch sizes below which no line is drawn through their times."""


class AdaptiveDelay:
    """Times are seconds on any one clock."""

    def __init__(self, most: float) -> None:
        self._most = most
        self._arrivals = 0.0
        self._last_arrival = -math.inf
        # Faded sums of 1, n, t, n * n, n * t over batches of n requests that took t.
        self._weight = self._n = self._t = self._nn = self._nt = 0.0

    def arrived(self, now: float) -> None:
        """Counts a request."""
        faded = math.exp((self._last_arrival - now) / _MEMORY_SECONDS)
        self._arrivals = self._arrivals * faded + 1.0
        self._last_arrival = now

    def ran(self, requests: int, seconds: float) -> None:
        """Counts a batch."""
        self._weight = self._weight * _FADE + 1.0
        self._n = self._n * _FADE + requests
        self._t = self._t * _FADE + seconds
        self._nn = self._nn * _FADE + requests * requests
        self._nt = self._nt * _FADE + requests * seconds

    @property
    def fixed_seconds(self) -> float:
        """What a batch takes whatever its size.

        0 before the first batch. While all batches are of one size, what they take: the most
        that it can be, so that waiting is tried and other sizes are seen.
        """
        if not self._weight:
            return 0.0
        n, t = self._n / self._weight, self._t / self._weight
        spread = self._nn / self._weight - n * n
        if spread < _LEAST_SPREAD:
            return t
        each = (self._nt / self._weight - n * t) / spread
        return min(max(t - each * n, 0.0), t)

    def until(self, oldest: float, now: float) -> float:
        """When a batch whose oldest request came at ``oldest`` should go; ``now`` or before for
        at once. Ask again at each arrival: the answer moves with them."""
        fixed = self.fixed_seconds
        if fixed < _SHORTEST_WAIT_SECONDS or self._arrivals * fixed <= _MEMORY_SECONDS:
            return now
        return min(oldest + self._most, self._last_arrival + fixed)
