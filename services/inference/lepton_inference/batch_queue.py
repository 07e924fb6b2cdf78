"""The requests that wait for one model, and which of them are its next batch.

A batch takes the highest level of priority first, and within a level one shape after another,
so that no shape starves another; room that is left goes to lower levels of the same shape. A
level does wait for as long as the levels above it fill every batch.

Requests whose caller is gone or whose deadline has passed are left out when they are found.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from lepton_inference.adaptive import AdaptiveDelay
from lepton_inference.batch import Work
from lepton_inference.padding import Padding
from lepton_inference.settings import BatchingSettings
from lepton_inference.signature import Tails
from lepton_inference.statistics import CANCELLED, Statistics
from lepton_mesh.errors import DeadlineExceeded

NEVER_NS = 1 << 62
_SWEEP_SECONDS = 0.01
"""A full queue is not looked through more often."""


class RequestExpired(DeadlineExceeded):
    reason = "REQUEST_EXPIRED"


class NextBatch(NamedTuple):
    """What is to run, or how long until something is."""

    works: list[Work]
    """Empty if nothing is due."""
    rows: int
    due_ns: int = NEVER_NS
    """Nanoseconds until a batch is due, where none is; NEVER_NS where nothing waits."""


class _Line:
    """Requests of one level and one shape, in the order they came."""

    __slots__ = ("rows", "works")

    def __init__(self) -> None:
        self.works: deque[Work] = deque()
        self.rows = 0


class BatchQueue:
    """Lives on one event loop.

    Args:
        settings: How requests are put together.
        batched: Whether requests may share a batch at all.
        batch_rows: The most rows that are put together, of ``max_rows`` that one request may
            have; None for as many.
        statistics: Where those who are left out are counted.
        padding: How requests of different lengths share a batch; None if they do not.
    """

    def __init__(
        self,
        settings: BatchingSettings,
        *,
        batched: bool,
        batch_rows: int | None,
        statistics: Statistics,
        padding: Padding | None,
    ) -> None:
        self.waiting = 0
        """Requests in the queue."""
        self._padding = padding
        self._statistics = statistics
        self._levels: list[dict[Tails, _Line]] = [{} for _ in range(settings.priority_levels)]
        self._default = self._levels[settings.default_priority - 1]
        self._alone: deque[Work] = deque()
        self._sweep_again = 0.0
        self._max_rows = (batch_rows or settings.max_rows) if batched else 1
        self._preferred = settings.preferred_rows if batched else ()
        self._full_rows = self._preferred[-1] if self._preferred else self._max_rows
        """Rows that nothing is waited for any more."""
        self._delay_ns = round(settings.max_delay_seconds * 1e9) if batched else 0
        self._adaptive = (
            AdaptiveDelay(settings.max_delay_seconds) if settings.adaptive_delay else None
        )

    def add(self, work: Work, priority: int) -> bool:
        """Queues a request.

        Args:
            work: The request.
            priority: Its level; 0 for the default.

        Returns:
            Whether a batch of its shape is full, so that it need not wait.
        """
        lines = self._levels[priority - 1] if priority else self._default
        key = work.tails if self._padding is None else self._padding.key(work.tails)
        line = lines.get(key)
        if line is None:
            line = lines[key] = _Line()
        line.works.append(work)
        line.rows += work.rows
        if self._adaptive is not None:
            self._adaptive.arrived(work.enqueued_ns / 1e9)
        self.waiting += 1
        return line.rows >= self._full_rows

    def add_alone(self, works: Iterable[Work]) -> None:
        """Queues requests that run before all others, each without company."""
        for work in works:
            work.alone = True
            self._alone.append(work)
            self.waiting += 1

    def next(self) -> NextBatch:
        """The next batch, taken out of the queue."""
        while self._alone:
            work = self._alone.popleft()
            if self._lives(work, time.monotonic()):
                return NextBatch([work], work.rows)
        soonest = NEVER_NS
        for level, lines in enumerate(self._levels):
            while lines:
                tails, left = self._first_due(lines)
                if left > 0:
                    soonest = min(soonest, left)
                    break
                works, rows = self._take(level, tails)
                if works:
                    return NextBatch(works, rows)
        return NextBatch([], 0, soonest)

    def hurry(self) -> None:
        """No batch waits to fill any more."""
        self._delay_ns = 0

    def ran(self, requests: int, seconds: float) -> None:
        """Notes how long a batch of so many requests took."""
        if self._adaptive is not None:
            self._adaptive.ran(requests, seconds)

    def drop(self, work: Work) -> None:
        """Counts a request whose caller is gone, or whose deadline passed, and tells it so."""
        waited = time.perf_counter_ns() - work.enqueued_ns
        if work.future.done():
            self._statistics.fail(CANCELLED, waited)
            return
        self._statistics.fail(RequestExpired.reason, waited)
        work.future.set_exception(
            RequestExpired("the request's deadline passed before the model could answer it")
        )

    def sweep(self) -> None:
        """Takes out those who went away or are too late, unless that was done a moment ago."""
        now = time.monotonic()
        if now < self._sweep_again:
            return
        self._sweep_again = now + _SWEEP_SECONDS
        for lines in self._levels:
            for tails, line in list(lines.items()):
                works, line.works = line.works, deque()
                for work in works:
                    if _is_wanted(work, now):
                        line.works.append(work)
                        continue
                    line.rows -= work.rows
                    self._lives(work, now)
                if not line.works:
                    del lines[tails]

    def _first_due(self, lines: dict[Tails, _Line]) -> tuple[Tails, int]:
        """The shape that need wait the least, and how long, in nanoseconds."""
        if not self._delay_ns:
            return next(iter(lines)), 0
        now = time.perf_counter_ns()
        first, least = next(iter(lines)), NEVER_NS
        for tails, line in lines.items():
            left = self._due_ns(line.works[0].enqueued_ns, now) - now
            if left <= 0 or line.rows >= self._full_rows:
                return tails, 0
            if left < least:
                first, least = tails, left
        return first, least

    def _due_ns(self, oldest_ns: int, now_ns: int) -> int:
        """When a line whose oldest request is that old is to run, full or not."""
        if self._adaptive is None:
            return oldest_ns + self._delay_ns
        return int(self._adaptive.until(oldest_ns / 1e9, now_ns / 1e9) * 1e9)

    def _take(self, level: int, tails: Tails) -> tuple[list[Work], int]:
        """A batch of that shape; expired and cancelled requests are left out of it.

        A line goes to the back of its level if anything is left in it, so that one shape
        cannot starve another.
        """
        levels = self._levels[level:]
        limit = self._cut(sum([lines[tails].rows for lines in levels if tails in lines]))
        works: list[Work] = []
        rows = 0
        padding, longest = self._padding, None
        now = time.monotonic()
        for lines in levels:
            line = lines.pop(tails, None)
            if line is None:
                continue
            queue = line.works
            while queue:
                work = queue[0]
                if _is_wanted(work, now):
                    if works and rows + work.rows > limit:
                        break
                    if padding is not None:
                        longer = padding.longest(longest or work.tails, work.tails)
                        if works and not padding.fits(longer, rows + work.rows):
                            break
                        longest = longer
                    works.append(work)
                    rows += work.rows
                queue.popleft()
                line.rows -= work.rows
                self._lives(work, now)
            if queue:
                lines[tails] = line
                break
        return works, rows

    def _cut(self, waiting_rows: int) -> int:
        """The most rows of a batch while so many wait."""
        for rows in reversed(self._preferred):
            if rows <= waiting_rows:
                return rows
        return self._max_rows

    def _lives(self, work: Work, now: float) -> bool:
        """Whether a request that leaves the queue is to run."""
        self.waiting -= 1
        if _is_wanted(work, now):
            return True
        self.drop(work)
        return False


def _is_wanted(work: Work, now: float) -> bool:
    return work.deadline > now and not work.future.done()
