"""Dynamic batching: requests that arrive together run together.

Requests of one event-loop tick are collected and run at its end. A model whose batches take
well under a millisecond runs inline, in the loop's own thread: handing it to another thread
costs more than it takes (13,500 against 20,500 req/s on the MLP 784-128-128-10). Any other
runs on a worker thread, and what arrives meanwhile is the next batch. Either way nothing waits
for a batch to fill unless the model's settings ask for a delay.

Bounds: rows in a batch, delay, requests in the queue, and each request's own deadline, past
which it is dropped before it costs compute.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import numpy as np

from lepton_inference.settings import BatchingSettings
from lepton_inference.signature import Tails
from lepton_inference.statistics import Statistics
from lepton_inference.tensors import Column
from lepton_mesh.errors import (
    DeadlineExceeded,
    Internal,
    LeptonError,
    ResourceExhausted,
    Unavailable,
)


class QueueFull(ResourceExhausted):
    reason = "QUEUE_FULL"


class RequestExpired(DeadlineExceeded):
    reason = "REQUEST_EXPIRED"


class ModelUnloaded(Unavailable):
    reason = "MODEL_UNLOADED"


class InferenceFailed(Internal):
    """The runtime refused a batch that the signature allowed."""

    reason = "INFERENCE_FAILED"


class Runner(Protocol):
    """Runs one batch. Called from one thread at a time."""

    def join(
        self, columns: Sequence[Sequence[Column]], rows: int, tails: Tails
    ) -> dict[str, np.ndarray[Any, Any]]:
        """The model's inputs: for each, the requests' columns one after another."""
        ...

    def run(self, feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """The model's outputs, in its order."""
        ...


class Batch:
    """The outputs of one batch; each of its requests takes its rows."""

    __slots__ = ("arrays", "batched", "rows", "views")

    def __init__(self, arrays: list[np.ndarray[Any, Any]], rows: int, batched: bool) -> None:
        self.arrays = arrays
        self.rows = rows
        self.batched = batched
        self.views = [_raw(array) for array in arrays]
        """Each output's raw bytes; None for BYTES."""


def _raw(array: np.ndarray[Any, Any]) -> memoryview | None:
    """The bytes of an array without a copy, if they lie in order; None for BYTES."""
    if array.dtype == object:
        return None
    if array.size and array.flags.c_contiguous:
        return array.data.cast("B")
    return memoryview(array.tobytes())


Outcome = tuple[Batch, int]
"""A batch, and the first of the rows that are the request's."""


class _Work:
    __slots__ = ("columns", "deadline", "enqueued_ns", "future", "rows")

    def __init__(
        self,
        columns: tuple[Column, ...],
        rows: int,
        deadline: float,
        future: asyncio.Future[Outcome],
    ) -> None:
        self.columns = columns
        self.rows = rows
        self.deadline = deadline
        self.future = future
        self.enqueued_ns = time.perf_counter_ns()


NO_DEADLINE = float("inf")


class Batcher:
    """The queue in front of one loaded model. Lives on one event loop."""

    def __init__(
        self,
        runner: Runner,
        settings: BatchingSettings,
        *,
        batched: bool,
        inline: bool,
        statistics: Statistics,
    ) -> None:
        self._runner = runner
        self._settings = settings
        self._batched = batched
        self._statistics = statistics
        self._loop = asyncio.get_running_loop()
        self._queues: dict[Tails, deque[_Work]] = {}
        self._waiting = 0
        self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._delayed_rows = 0
        """Rows that wait for the timer."""
        self._busy = False
        self._closed = False
        self._empty: asyncio.Future[None] | None = None
        # One thread: a session's own threads share out the cores, and two batches at once
        # would only take them from each other.
        self._executor = None if inline else ThreadPoolExecutor(1, "inference")
        self._max_rows = settings.max_rows if batched else 1

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._waiting

    def now(self) -> float:
        """The clock of deadlines, seconds."""
        # Not the loop's own, which uvloop keeps in whole milliseconds.
        return time.monotonic()

    def submit(
        self, columns: tuple[Column, ...], rows: int, tails: Tails, deadline: float = NO_DEADLINE
    ) -> asyncio.Future[Outcome]:
        """Queues a checked request.

        Args:
            columns: Its inputs, in the model's order.
            rows: Its rows, at most ``max_rows``.
            tails: Requests are batched with those of equal tails.
            deadline: On the clock of :meth:`now`.

        The future fails with RequestExpired or InferenceFailed. To cancel it is enough to
        cancel the future.

        Raises:
            QueueFull: As many requests wait as may.
            ModelUnloaded: The model is gone.
        """
        if self._waiting >= self._settings.max_queue:
            self._statistics.refuse(QueueFull.reason)
            raise QueueFull(
                f"{self._waiting} requests wait for this model already; send fewer at a time, "
                "or raise the endpoint's batching.max_queue",
                waiting=self._waiting,
            )
        if self._closed:
            raise ModelUnloaded("the model was unloaded; send the request again")
        future: asyncio.Future[Outcome] = self._loop.create_future()
        queue = self._queues.get(tails)
        if queue is None:
            queue = self._queues[tails] = deque()
        queue.append(_Work(columns, rows, deadline, future))
        self._waiting += 1
        if self._timer is not None:
            self._delayed_rows += rows
            if self._delayed_rows >= self._max_rows:
                self._timer.cancel()
                self._timer = None
                self._loop.call_soon(self._tick)
        elif not self._scheduled and not self._busy:
            self._schedule(rows)
        return future

    async def close(self) -> None:
        """Lets what is queued finish, then frees the worker. No request may come after."""
        self._closed = True
        if self._waiting or self._busy:
            self._empty = self._loop.create_future()
            await self._empty
        if self._executor is not None:
            self._executor.shutdown(wait=False)

    def _schedule(self, rows: int) -> None:
        self._scheduled = True
        if self._settings.max_delay_seconds > 0 and rows < self._max_rows:
            self._delayed_rows = rows
            self._timer = self._loop.call_later(self._settings.max_delay_seconds, self._tick)
        else:
            self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        """Runs what waits: all of it inline, or the next batch on the worker."""
        self._scheduled = False
        self._timer = None
        while self._queues and not self._busy:
            tails = next(iter(self._queues))
            works, rows = self._take(tails)
            if not works:
                continue
            if self._executor is None:
                self._settle(works, *self._run(works, rows, tails))
            else:
                self._busy = True
                running = self._loop.run_in_executor(self._executor, self._run, works, rows, tails)
                running.add_done_callback(partial(self._ran, works))
        self._check_empty()

    def _check_empty(self) -> None:
        if self._empty is not None and not (self._waiting or self._busy or self._empty.done()):
            self._empty.set_result(None)

    def _ran(
        self,
        works: list[_Work],
        done: asyncio.Future[tuple[Batch | LeptonError, Callable[[int], None] | None]],
    ) -> None:
        self._busy = False
        self._settle(works, *done.result())
        if not self._scheduled:
            self._tick()

    def _take(self, tails: Tails) -> tuple[list[_Work], int]:
        """The next batch of that shape; expired and cancelled requests are left out of it.

        The queue goes to the back of the line if anything is left in it, so that one shape
        cannot starve another.
        """
        queue = self._queues.pop(tails)
        works: list[_Work] = []
        rows = 0
        now = self.now()
        while queue and rows + queue[0].rows <= self._max_rows:
            work = queue.popleft()
            self._waiting -= 1
            if work.future.done():
                continue
            if work.deadline <= now:
                self._statistics.refuse(RequestExpired.reason)
                work.future.set_exception(
                    RequestExpired("the request's deadline passed while it waited for the model")
                )
                continue
            works.append(work)
            rows += work.rows
        if queue:
            self._queues[tails] = queue
        return works, rows

    def _run(
        self, works: list[_Work], rows: int, tails: Tails
    ) -> tuple[Batch | LeptonError, Callable[[int], None] | None]:
        """One batch through the model, in whichever thread this is."""
        started = time.perf_counter_ns()
        try:
            columns = list(zip(*[work.columns for work in works], strict=True))
            feeds = self._runner.join(columns, rows, tails)
            joined = time.perf_counter_ns()
            batch = Batch(self._runner.run(feeds), rows, self._batched)
            inferred = time.perf_counter_ns()
        # ONNX Runtime raises its own kinds, some of them bare Exception; whatever it is, it
        # is this batch's and nobody else's.
        except Exception as error:
            failure = (
                error
                if isinstance(error, LeptonError)
                else InferenceFailed("the model failed on this input")
            )
            failure.__cause__ = None if failure is error else error
            return failure, None

        def record(ended: int) -> None:
            self._statistics.batch_done(
                requests=len(works),
                rows=rows,
                enqueued_ns=sum([work.enqueued_ns for work in works]),
                started_ns=started,
                joined_ns=joined,
                inferred_ns=inferred,
                ended_ns=ended,
            )

        return batch, record

    def _settle(
        self,
        works: list[_Work],
        result: Batch | LeptonError,
        record: Callable[[int], None] | None,
    ) -> None:
        if isinstance(result, LeptonError):
            now = time.perf_counter_ns()
            for work in works:
                self._statistics.failures.add(now - work.enqueued_ns)
                if not work.future.done():
                    # One exception object each: raising adds to its traceback.
                    failure = type(result)(result.message, **result.metadata)
                    failure.__cause__ = result.__cause__
                    work.future.set_exception(failure)
            return
        first = 0
        for work in works:
            if not work.future.done():
                work.future.set_result((result, first))
            first += work.rows
        if record is not None:
            record(time.perf_counter_ns())
