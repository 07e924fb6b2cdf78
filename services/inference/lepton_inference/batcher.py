"""Dynamic batching: requests that arrive together run together.

Requests of one event-loop turn are collected and run at its end. A batch that was measured to
take two milliseconds at most runs inline, in the loop's own thread: handing it to another
thread costs more than it takes (13,500 against 20,500 req/s on the MLP 784-128-128-10). After
each such batch the loop turns, so that what else it serves is never kept waiting for more than
one. A larger batch runs on a worker thread, and what arrives meanwhile is the next batch.
Nothing waits for a batch to fill unless the model's settings ask for a delay, which is fixed
or follows the load (:mod:`lepton_inference.adaptive`).

A batch that fails is run again request by request, so that only the guilty one hears of it.

Bounds: rows in a batch, delay, requests in the queue, and each request's own deadline, past
which it is dropped before it costs compute. A batch whose callers are all gone or too late is ended
where the model runs so that it can be.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from lepton_inference.batch import Batch, BatchRunner, Outcome, Ran, Runner, Work
from lepton_inference.batch_queue import NEVER_NS, BatchQueue
from lepton_inference.model_errors import MemoryLimit, RunUnwanted
from lepton_inference.padding import Padding
from lepton_inference.settings import BatchingSettings
from lepton_inference.signature import Tails
from lepton_inference.statistics import Statistics
from lepton_inference.tensors import Column
from lepton_mesh.errors import Internal, LeptonError, ResourceExhausted, Unavailable

log = logging.getLogger(__name__)

_LONGEST_RETRY_SECONDS = 60.0


class QueueFull(ResourceExhausted):
    reason = "QUEUE_FULL"


class ModelUnloaded(Unavailable):
    reason = "MODEL_UNLOADED"


class InferenceFailed(Internal):
    """The runtime failed on a request, and does not say that it was the request's fault."""

    reason = "INFERENCE_FAILED"


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
        self._queue = BatchQueue(
            settings,
            batched=batched,
            batch_rows=batch_rows,
            statistics=statistics,
            padding=padding,
        )
        self.max_queue = settings.max_queue
        """Requests that may wait."""
        self._statistics = statistics
        self._loop = asyncio.get_running_loop()
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._running = 0
        """Batches on worker threads."""
        self._instances = instances
        self._closed = False
        self._empty: asyncio.Future[None] | None = None
        self._inline_rows = inline_rows if instances == 1 else 0
        # A thread that no batch ever needs is never started.
        self._executor = ThreadPoolExecutor(instances, "inference", prepare_thread)
        self._request_seconds = 0.0
        """What a request has cost of late; 0 before the first."""

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._queue.waiting

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
        if self._queue.waiting >= self.max_queue:
            self._queue.sweep()
            if self._queue.waiting >= self.max_queue:
                raise self._full()
        if self._closed:
            raise ModelUnloaded("the model was unloaded; send the request again")
        future: asyncio.Future[Outcome] = self._loop.create_future()
        full = self._queue.add(Work(columns, rows, tails, deadline, future), priority)
        if (
            not self._scheduled
            and self._running < self._instances
            and (self._timer is None or full)
        ):
            self._schedule()
        return future

    async def close(self) -> None:
        """Lets what is queued finish, then frees the workers. No request may come after."""
        self._closed = True
        self._queue.hurry()
        if self._queue.waiting or self._running:
            self._empty = self._loop.create_future()
            if not self._scheduled:
                self._schedule()
            await self._empty
        self._executor.shutdown(wait=False)

    def _full(self) -> QueueFull:
        self._statistics.fail(QueueFull.reason)
        error = QueueFull(
            f"{self._queue.waiting} requests wait for this model already; send fewer at a time, "
            "or raise the endpoint's batching.max_queue",
            waiting=self._queue.waiting,
        )
        if self._request_seconds:
            seconds = self._queue.waiting * self._request_seconds / self._instances
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
            works, rows, due_ns = self._queue.next()
            if not works:
                if due_ns < NEVER_NS:
                    # Loops keep time in milliseconds and may call earlier: the tick then finds
                    # nothing due, and asks again.
                    self._timer = self._loop.call_later(due_ns / 1e9, self._tick)
                break
            if rows <= self._inline_rows:
                self._settle(works, rows, self._run(works, rows, inline=True))
                if self._queue.waiting and not self._scheduled:
                    self._schedule()
                break
            self._running += 1
            running = self._loop.run_in_executor(self._executor, self._run, works, rows)
            running.add_done_callback(partial(self._ran, works, rows))
        self._check_empty()

    def _check_empty(self) -> None:
        if self._empty is not None and not (
            self._queue.waiting or self._running or self._empty.done()
        ):
            self._empty.set_result(None)

    def _ran(self, works: list[Work], rows: int, done: asyncio.Future[Ran]) -> None:
        self._running -= 1
        self._settle(works, rows, done.result())
        if not self._scheduled:
            self._tick()

    def _settle(self, works: list[Work], rows: int, ran: Ran) -> None:
        if isinstance(ran, RunUnwanted):
            for work in works:
                self._queue.drop(work)
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
        self._queue.ran(len(works), seconds)
        seconds /= len(works)
        before = self._request_seconds or seconds
        self._request_seconds = before + (seconds - before) / 8

    def _failed(self, works: list[Work], error: Exception) -> None:
        """Has the requests of a batch that failed run one by one; tells a lone one."""
        failure = _failure(error)
        if not works[0].alone:
            log.warning(
                "batch failed",
                extra={
                    "requests": len(works),
                    "reason": failure.reason,
                    "detail": failure.message,
                },
                # What requests hold can bring about the others: a traceback tells nothing there.
                exc_info=error if isinstance(failure, Internal) else None,
            )
        if len(works) > 1:
            self._queue.add_alone(works)
            return
        (work,) = works
        self._statistics.fail(failure.reason, time.perf_counter_ns() - work.enqueued_ns)
        if not work.future.done():
            work.future.set_exception(failure)


def _failure(error: Exception) -> LeptonError:
    """What a lone request hears of the error that its batch failed with."""
    if isinstance(error, LeptonError):
        return error
    if isinstance(error, MemoryError):
        return MemoryLimit("the batch needs more memory than there is")
    failure = InferenceFailed("the model failed on this input")
    failure.__cause__ = error
    return failure
