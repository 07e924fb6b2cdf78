"""Cumulative statistics of one loaded model, for ModelStatistics and Prometheus.

Written by the batcher on the event loop, once a batch; times are nanoseconds.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

SECONDS_BOUNDS = (
    *(50e-6, 100e-6, 200e-6, 500e-6),
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0),
)
"""Upper bounds of the buckets that durations are counted in, inclusive."""
ROWS_BOUNDS = tuple(2**power for power in range(11))
"""Upper bounds of the buckets that batches are counted in, inclusive."""
_NS_BOUNDS = tuple(round(seconds * 1e9) for seconds in SECONDS_BOUNDS)

CANCELLED = "CANCELLED"
"""The reason of a request whose caller went away while it waited, or while it ran and was ended."""


@dataclass(slots=True)
class Duration:
    """A count, and the time all of them took together."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns


class Histogram:
    """Counts of what was observed, by bucket, and its sum.

    Args:
        bounds: The buckets' upper bounds, inclusive, ascending; one more bucket takes the rest.
    """

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[int, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """Observations in each bucket, not cumulative."""
        self.sum = 0

    def add(self, value: int, count: int = 1) -> None:
        """Counts ``value`` as often as ``count`` says."""
        self.counts[bisect_left(self._bounds, value)] += count
        self.sum += value * count

    def add_since(self, starts: Sequence[int], end: int) -> None:
        """Counts the time from each of ``starts`` to ``end``."""
        bounds, counts = self._bounds, self.counts
        self.sum += len(starts) * end - sum(starts)
        bucket = bisect_left(bounds, end - min(starts))
        # Requests that share a batch came at nearly the same time: mostly one bucket has all.
        if bucket == bisect_left(bounds, end - max(starts)):
            counts[bucket] += len(starts)
        else:
            for start in starts:
                counts[bisect_left(bounds, end - start)] += 1

    @property
    def duration(self) -> Duration:
        """All of it together; of a histogram of nanoseconds."""
        return Duration(sum(self.counts), self.sum)


def _durations() -> Histogram:
    return Histogram(_NS_BOUNDS)


@dataclass(slots=True)
class BatchTimes:
    """What batches of one size cost."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class Statistics:
    """Requests and batches since the model was loaded."""

    inferences: int = 0
    """Rows inferred."""
    executions: int = 0
    """Batches run."""
    last_inference_ms: int = 0
    """Unix time of the last batch."""
    success: Histogram = field(default_factory=_durations)
    failures: dict[str, Duration] = field(default_factory=dict)
    """Requests that failed or were refused, by reason."""
    queue: Histogram = field(default_factory=_durations)
    compute_input: Histogram = field(default_factory=_durations)
    compute_infer: Histogram = field(default_factory=_durations)
    compute_output: Histogram = field(default_factory=_durations)
    batch_rows: Histogram = field(default_factory=lambda: Histogram(ROWS_BOUNDS))
    cache_hit: Duration = field(default_factory=Duration)
    """Requests answered from the response cache, and how long that took."""
    cache_miss: Duration = field(default_factory=Duration)
    """Requests that were looked up in vain, and how long looking up and keeping took."""
    batches: dict[int, BatchTimes] = field(default_factory=dict)
    """By rows in the batch."""

    def batch_done(
        self,
        *,
        rows: int,
        enqueued_ns: Sequence[int],
        started_ns: int,
        joined_ns: int,
        inferred_ns: int,
        ended_ns: int,
    ) -> None:
        """Adds one batch; ``enqueued_ns`` is when each of its requests came.

        A request computes as long as its batch does, so each duration counts once for each
        request, as Triton counts.
        """
        requests = len(enqueued_ns)
        self.inferences += rows
        self.executions += 1
        self.last_inference_ms = time.time_ns() // 1_000_000
        self.success.add_since(enqueued_ns, ended_ns)
        self.queue.add_since(enqueued_ns, started_ns)
        self.compute_input.add(joined_ns - started_ns, requests)
        self.compute_infer.add(inferred_ns - joined_ns, requests)
        self.compute_output.add(ended_ns - inferred_ns, requests)
        self.batch_rows.add(rows)
        times = self.batches.get(rows)
        if times is None:
            times = self.batches[rows] = BatchTimes()
        times.compute_input.add(joined_ns - started_ns)
        times.compute_infer.add(inferred_ns - joined_ns)
        times.compute_output.add(ended_ns - inferred_ns)

    def answered(self, rows: int, started_ns: int) -> None:
        """Adds a request, asked at ``started_ns``, that others' batches have answered."""
        self.inferences += rows
        self.executions += 1
        self.last_inference_ms = time.time_ns() // 1_000_000
        self.success.add(time.perf_counter_ns() - started_ns)

    def fail(self, reason: str, ns: int = 0) -> None:
        """Counts a request that got an error, and the time it took until then."""
        self.failures.setdefault(reason, Duration()).add(ns)

    @property
    def failed(self) -> Duration:
        """All failures together."""
        each = list(self.failures.values())
        return Duration(sum(one.count for one in each), sum(one.ns for one in each))
