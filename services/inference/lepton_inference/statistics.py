"""Cumulative statistics of one loaded model, as ModelStatistics reports them.

Written by the batcher on the event loop, once a batch; times are nanoseconds.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(slots=True)
class Duration:
    """A count, and the time all of them took together."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns


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
    success: Duration = field(default_factory=Duration)
    failures: Duration = field(default_factory=Duration)
    rejected: dict[str, int] = field(default_factory=dict)
    """Requests refused before they ran, by reason."""
    queue: Duration = field(default_factory=Duration)
    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    cache_hit: Duration = field(default_factory=Duration)
    """Requests answered from the response cache, and how long that took."""
    cache_miss: Duration = field(default_factory=Duration)
    """Requests that were looked up in vain, and how long looking up and keeping took."""
    batches: dict[int, BatchTimes] = field(default_factory=dict)
    """By rows in the batch."""

    def batch_done(
        self,
        *,
        requests: int,
        rows: int,
        enqueued_ns: int,
        started_ns: int,
        joined_ns: int,
        inferred_ns: int,
        ended_ns: int,
    ) -> None:
        """Adds one batch; ``enqueued_ns`` is the sum of its requests' arrival times.

        A request waits and computes as long as its batch does, so each duration counts once
        for each request, as Triton counts.
        """
        self.inferences += rows
        self.executions += 1
        self.last_inference_ms = time.time_ns() // 1_000_000
        self.success.add(requests * ended_ns - enqueued_ns, requests)
        self.queue.add(requests * started_ns - enqueued_ns, requests)
        self.compute_input.add(requests * (joined_ns - started_ns), requests)
        self.compute_infer.add(requests * (inferred_ns - joined_ns), requests)
        self.compute_output.add(requests * (ended_ns - inferred_ns), requests)
        times = self.batches.get(rows)
        if times is None:
            times = self.batches[rows] = BatchTimes()
        times.compute_input.add(joined_ns - started_ns)
        times.compute_infer.add(inferred_ns - joined_ns)
        times.compute_output.add(ended_ns - inferred_ns)

    def refuse(self, reason: str) -> None:
        """Counts a request that was turned away before it ran."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1
