"""Dynamic batching: requests that arrive together run together.

Requests of one event-loop turn are collected and run at its end. A batch that was measured to
take two milliseconds at most runs inline, in the loop's own thread: handing it to another
thread costs more than it takes (13,500 against 20,500 req/s on the MLP 784-128-128-10). After
each such batch the loop turns, so that what else it serves is never kept waiting for more than
one. A larger batch runs on a worker thread, and what arrives meanwhile is the next batch.
Nothing waits for a batch to fill unless the model's settings ask for a delay, which is fixed
or follows the load (:mod:`lepton_inference.adaptive`).

A batch takes the highest level of priority first, and within a level one shape after another,
so that no shape starves another; room that is left goes to lower levels of the same shape. A
level does wait for as long as the levels above it fill every batch.

A batch that fails is run again request by request, so that only the guilty one hears of it.

Bounds: rows in a batch, delay, requests in the queue, and each request's own deadline, past
which it is dropped before it costs compute. A batch whose callers are all gone or too late is ended
where the model runs so that it can be.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from lepton_inference.adaptive import AdaptiveDelay
from lepton_inference.batch import Batch, BatchRunner, Outcome, Ran, Runner, Work
from lepton_inference.model_errors import RunUnwanted
from lepton_inference.padding import Padding
from lepton_inference.settings import BatchingSettings
from lepton_inference.signature import Tails
from lepton_inference.statistics import CANCELLED, Statistics
from lepton_inference.tensors import Column
from lepton_mesh.errors import (
    DeadlineExceeded,
    Internal,
    LeptonError,
    ResourceExhausted,
    Unavailable,
)

log = logging.getLogger(__name__)

_LONGEST_RETRY_SECONDS = 60.0
_NEVER_NS = 1 << 62
_SWEEP_SECONDS = 0.01
"""A full queue is not looked through more often."""


class QueueFull(ResourceExhausted):
    reason = "QUEUE_FULL"


class RequestExpired(DeadlineExceeded):
    reason = "REQUEST_EXPIRED"


class ModelUnloaded(Unavailable):
    reason = "MODEL_UNLOADED"


class InferenceFailed(Internal):
    """The runtime refused a request that the signature allowed."""

    reason = "INFERENCE_FAILED"


class _Line:
    """Requests of one level and one shape, in the order they came."""

    __slots__ = ("rows", "works")

    def __init__(self) -> None:
        self.works: deque[Work] = deque()
        self.rows = 0


NO_DEADLINE = float("inf")


class Batcher:
    """The queue in front of one loaded model. Lives on one event loop.

    Args:
        runner: The model.
        settings: How requests are put together.
        batched: Whether requests may share a batch at all.
        batch_rows: The most rows that are put together, of ``max_rows`` that one request may
            have; None for as many.
        inline_rows: The largest batch that runs on the event loop; 0 for none.
        instances: Batches that may run at a time; more than one run on worker threads only.
        statistics: Where it counts.
        padding: How requests of different lengths share a batch; None if they do not.
        prepare_thread: Run in each worker thread before its first batch.
    """

    def __init__(
        self,
        runner: Runner,
        settings: BatchingSettings,
        *,
        batched: bool,
        batch_rows: int | None = None,
        inline_rows: int,
        instances: int = 1,
        statistics: Statistics,
        padding: Padding | None = None,
        prepare_thread: Callable[[], None] | None = None,
    ) -> None:
        self._run = BatchRunner(runner, padding, batched).run
        self._padding = padding
        self._settings = settings
        self._statistics = statistics
        self._loop = asyncio.get_running_loop()
        self._levels: list[dict[Tails, _Line]] = [{} for _ in range(settings.priority_levels)]
        self._default = self._levels[settings.default_priority - 1]
        self._alone: deque[Work] = deque()
        self._waiting = 0
        self._scheduled = False
        self._sweep_again = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._running = 0
        """Batches on worker threads."""
        self._instances = instances
        self._closed = False
        self._empty: asyncio.Future[None] | None = None
        self._inline_rows = inline_rows if instances == 1 else 0
        self._max_rows = (batch_rows or settings.max_rows) if batched else 1
        self._preferred = settings.preferred_rows if batched else ()
        self._full_rows = self._preferred[-1] if self._preferred else self._max_rows
        """Rows that nothing is waited for any more."""
        self._delay_ns = round(settings.max_delay_seconds * 1e9) if batched else 0
        self._adaptive = (
            AdaptiveDelay(settings.max_delay_seconds) if settings.adaptive_delay else None
        )
        # A thread that no batch ever needs is never started.
        self._executor = ThreadPoolExecutor(instances, "inference", prepare_thread)
        self._request_seconds = 0.0
        """What a request has cost of late; 0 before the first."""

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._waiting

    @property
    def max_queue(self) -> int:
        """Requests that may wait."""
        return self._settings.max_queue

    def now(self) -> float:
        """The clock of deadlines, seconds."""
        # Not the loop's own, which uvloop keeps in whole milliseconds.
        return time.monotonic()

    def submit(
        self,
        columns: tuple[Column, ...],
        rows: int,
        tails: Tails,
        deadline: float = NO_DEADLINE,
        priority: int = 0,
    ) -> asyncio.Future[Outcome]:
        """Queues a checked request.

        Args:
            columns: Its inputs, in the model's order.
            rows: Its rows, at most ``max_rows``.
            tails: Requests are batched with those of equal tails, or padded to the longest.
            deadline: On the clock of :meth:`now`.
            priority: Its level; 0 for the default.

        The future fails with RequestExpired or InferenceFailed. To cancel it is enough to
        cancel the future.

        Raises:
            QueueFull: As many requests wait as may.
            ModelUnloaded: The model is gone.
        """
        if self._waiting >= self._settings.max_queue and not self._swept():
            raise self._full()
        if self._closed:
            raise ModelUnloaded("the model was unloaded; send the request again")
        future: asyncio.Future[Outcome] = self._loop.create_future()
        lines = self._levels[priority - 1] if priority else self._default
        key = tails if self._padding is None else self._padding.key(tails)
        line = lines.get(key)
        if line is None:
            line = lines[key] = _Line()
        work = Work(columns, rows, tails, deadline, future)
        line.works.append(work)
        line.rows += rows
        if self._adaptive is not None:
            self._adaptive.arrived(work.enqueued_ns / 1e9)
        self._waiting += 1
        if (
            not self._scheduled
            and self._running < self._instances
            and (self._timer is None or line.rows >= self._full_rows)
        ):
            self._schedule()
        return future

    async def close(self) -> None:
        """Lets what is queued finish, then frees the workers. No request may come after."""
        self._closed = True
        if self._waiting or self._running:
            self._empty = self._loop.create_future()
            if not self._scheduled:
                self._schedule()
            await self._empty
        self._executor.shutdown(wait=False)

    def _swept(self) -> bool:
        """Whether taking those out of the queue whose callers went away has made room."""
        now = self.now()
        if now < self._sweep_again:
            return False
        self._sweep_again = now + _SWEEP_SECONDS
        for lines in self._levels:
            for tails, line in list(lines.items()):
                works, line.works = line.works, deque()
                for work in works:
                    if not work.future.done():
                        line.works.append(work)
                        continue
                    line.rows -= work.rows
                    self._lives(work, now)
                if not line.works:
                    del lines[tails]
        return self._waiting < self._settings.max_queue

    def _full(self) -> QueueFull:
        self._statistics.fail(QueueFull.reason)
        error = QueueFull(
            f"{self._waiting} requests wait for this model already; send fewer at a time, "
            "or raise the endpoint's batching.max_queue",
            waiting=self._waiting,
        )
        if self._request_seconds:
            seconds = self._waiting * self._request_seconds / self._instances
            error.retry_after_seconds = min(max(seconds, 0.001), _LONGEST_RETRY_SECONDS)
        return error

    def _schedule(self) -> None:
        self._scheduled = True
        self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        """Runs what is to run now: one batch inline, or one on each worker that is free."""
        self._scheduled = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._running < self._instances:
            works, rows = self._next()
            if not works:
                break
            if rows <= self._inline_rows:
                self._settle(works, rows, self._run(works, rows))
                if self._waiting and not self._scheduled:
                    self._schedule()
                break
            self._running += 1
            running = self._loop.run_in_executor(self._executor, self._run, works, rows)
            running.add_done_callback(partial(self._ran, works, rows))
        self._check_empty()

    def _check_empty(self) -> None:
        if self._empty is not None and not (self._waiting or self._running or self._empty.done()):
            self._empty.set_result(None)

    def _ran(self, works: list[Work], rows: int, done: asyncio.Future[Ran]) -> None:
        self._running -= 1
        self._settle(works, rows, done.result())
        if not self._scheduled:
            self._tick()

    def _next(self) -> tuple[list[Work], int]:
        """The next batch; an empty one if none is due, and then a timer for the first that is."""
        while self._alone:
            work = self._alone.popleft()
            if self._lives(work, self.now()):
                return [work], work.rows
        soonest = _NEVER_NS
        for level, lines in enumerate(self._levels):
            while lines:
                tails, left = self._first_due(lines)
                if left > 0:
                    soonest = min(soonest, left)
                    break
                works, rows = self._take(level, tails)
                if works:
                    return works, rows
        if soonest < _NEVER_NS:
            # Loops keep time in milliseconds and may call earlier: the tick then finds
            # nothing due, and asks again.
            self._timer = self._loop.call_later(soonest / 1e9, self._tick)
        return [], 0

    def _first_due(self, lines: dict[Tails, _Line]) -> tuple[Tails, int]:
        """The shape that need wait the least, and how long, in nanoseconds."""
        if not self._delay_ns or self._closed:
            return next(iter(lines)), 0
        now = time.perf_counter_ns()
        first, least = next(iter(lines)), _NEVER_NS
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
        now = self.now()
        for lines in levels:
            line = lines.pop(tails, None)
            if line is None:
                continue
            queue = line.works
            while queue:
                work = queue[0]
                if works and rows + work.rows > limit:
                    break
                if padding is not None:
                    longer = padding.longest(longest or work.tails, work.tails)
                    if works and not padding.fits(longer, rows + work.rows):
                        break
                    longest = longer
                queue.popleft()
                line.rows -= work.rows
                if self._lives(work, now):
                    works.append(work)
                    rows += work.rows
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
        self._waiting -= 1
        if work.deadline > now and not work.future.done():
            return True
        self._drop(work)
        return False

    def _drop(self, work: Work) -> None:
        """Counts a request whose caller is gone, or whose deadline passed."""
        waited = time.perf_counter_ns() - work.enqueued_ns
        if work.future.done():
            self._statistics.fail(CANCELLED, waited)
            return
        self._statistics.fail(RequestExpired.reason, waited)
        work.future.set_exception(
            RequestExpired("the request's deadline passed before the model could answer it")
        )

    def _settle(self, works: list[Work], rows: int, ran: Ran) -> None:
        if isinstance(ran, RunUnwanted):
            for work in works:
                self._drop(work)
            return
        if isinstance(ran, Exception):
            self._failed(works, ran)
            return
        batch, times = ran
        first = 0
        for index, work in enumerate(works):
            if not work.future.done():
                work.future.set_result((batch, first) if isinstance(batch, Batch) else batch[index])
            first += work.rows
        ended = time.perf_counter_ns()
        self._statistics.batch_done(
            rows=rows,
            enqueued_ns=[work.enqueued_ns for work in works],
            started_ns=times.started_ns,
            joined_ns=times.joined_ns,
            inferred_ns=times.inferred_ns,
            ended_ns=ended,
        )
        seconds = (ended - times.started_ns) / 1e9
        if self._adaptive is not None:
            self._adaptive.ran(len(works), seconds)
        seconds /= len(works)
        before = self._request_seconds or seconds
        self._request_seconds = before + (seconds - before) / 8

    def _failed(self, works: list[Work], error: Exception) -> None:
        """Has the requests of a batch that failed run one by one; tells a lone one."""
        if not works[0].alone:
            log.warning("batch failed", extra={"requests": len(works)}, exc_info=error)
        if len(works) > 1:
            for work in works:
                work.alone = True
            self._alone.extend(works)
            self._waiting += len(works)
            return
        (work,) = works
        if isinstance(error, LeptonError):
            failure = error
        else:
            failure = InferenceFailed("the model failed on this input")
            failure.__cause__ = error
        self._statistics.fail(failure.reason, time.perf_counter_ns() - work.enqueued_ns)
        if not work.future.done():
            work.future.set_exception(failure)
