"""One batch: the requests in it, how it goes through the model, and what each gets of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lepton_inference.padding import Padding
from lepton_inference.signature import Tails
from lepton_inference.tensors import Column


class Runner(Protocol):
    """Runs batches. Called from as many threads at a time as the model has instances."""

    def join(
        self, columns: Sequence[Sequence[Column]], rows: int, tails: Tails
    ) -> dict[str, np.ndarray[Any, Any]]:
        """The model's inputs: for each, the requests' columns one after another."""
        ...

    def run(self, feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """The model's outputs, in its order."""
        ...


@runtime_checkable
class EndableRunner(Runner, Protocol):
    """A runner whose runs can be ended before they are over."""

    def run_while(
        self, feeds: dict[str, np.ndarray[Any, Any]], wanted: Callable[[], bool]
    ) -> list[np.ndarray[Any, Any]]:
        """As :meth:`run`; raises RunUnwanted if it found ``wanted`` to say no before the end.

        ``wanted`` is asked now and then, on any thread.
        """
        ...


@dataclass(frozen=True, slots=True)
class Times:
    """When the parts of one batch ended, on the clock of ``enqueued_ns``."""

    started_ns: int
    joined_ns: int
    inferred_ns: int


class Batch:
    """The outputs of one batch; each of its requests takes its rows."""

    __slots__ = ("arrays", "batched", "rows", "times", "views")

    def __init__(
        self,
        arrays: list[np.ndarray[Any, Any]],
        rows: int,
        batched: bool,
        times: Times | None = None,
    ) -> None:
        self.arrays = arrays
        self.rows = rows
        self.batched = batched
        self.times = times
        """When it ran; None where it is no batch of a model's."""
        self.views = [_raw(array) for array in arrays]
        """Each output's raw bytes; None for BYTES."""

    def part(self, outputs: Sequence[int]) -> Batch:
        """The same batch, as if the model had no other outputs."""
        part = Batch.__new__(Batch)
        part.arrays = [self.arrays[index] for index in outputs]
        part.rows = self.rows
        part.batched = self.batched
        part.times = self.times
        part.views = [self.views[index] for index in outputs]
        return part


def _raw(array: np.ndarray[Any, Any]) -> memoryview | None:
    """The bytes of an array without a copy, if they lie in order; None for BYTES."""
    if array.dtype == object:
        return None
    if array.size and array.flags.c_contiguous:
        return array.data.cast("B")
    return memoryview(array.tobytes())


Outcome = tuple[Batch, int]
"""A batch, and the first of the rows that are the request's."""


class Work:
    """A request in the queue."""

    __slots__ = ("alone", "columns", "deadline", "enqueued_ns", "future", "rows", "tails")

    def __init__(
        self,
        columns: tuple[Column, ...],
        rows: int,
        tails: Tails,
        deadline: float,
        future: asyncio.Future[Outcome],
    ) -> None:
        self.columns = columns
        self.rows = rows
        self.tails = tails
        self.deadline = deadline
        self.future = future
        self.enqueued_ns = time.perf_counter_ns()
        self.alone = False
        """Whether it was in a batch that failed, and runs without company now."""


Ran = tuple[Batch | list[Outcome], Times] | Exception
"""What came of a batch; one that was padded is cut up into an outcome for each request."""


class BatchRunner:
    """Takes batches through a model, in whichever thread it is called.

    Args:
        runner: The model.
        padding: How requests of different lengths share a batch; None if they do not.
        batched: Whether requests may share a batch at all.
    """

    def __init__(self, runner: Runner, padding: Padding | None, batched: bool) -> None:
        self._runner = runner
        self._endable = runner if isinstance(runner, EndableRunner) else None
        self._padding = padding
        self._batched = batched

    def run(self, works: list[Work], rows: int, *, inline: bool = False) -> Ran:
        """One batch of ``works``, which have ``rows`` together.

        Args:
            inline: It is over before anybody could end it.
        """
        started = time.perf_counter_ns()
        try:
            tails = works[0].tails
            if self._padding is not None and any(work.tails != tails for work in works):
                return self._run_padded(self._padding, works, rows, started, inline)
            columns = list(zip(*[work.columns for work in works], strict=True))
            feeds = self._runner.join(columns, rows, tails)
            joined = time.perf_counter_ns()
            arrays = self._infer(feeds, works, inline)
            times = Times(started, joined, time.perf_counter_ns())
            batch = Batch(arrays, rows, self._batched, times)
        # ONNX Runtime raises its own kinds, some of them bare Exception; whatever it is, it
        # is this batch's and nobody else's.
        except Exception as error:
            return error
        return batch, times

    def _run_padded(
        self, padding: Padding, works: list[Work], rows: int, started: int, inline: bool
    ) -> tuple[list[Outcome], Times]:
        columns, tails = padding.pad([(work.columns, work.rows, work.tails) for work in works])
        feeds = self._runner.join(columns, rows, tails)
        joined = time.perf_counter_ns()
        arrays = self._infer(feeds, works, inline)
        inferred = time.perf_counter_ns()
        times = Times(started, joined, inferred)
        outcomes: list[Outcome] = []
        first = 0
        for work in works:
            own = padding.cut(arrays, first, work.rows, work.tails)
            outcomes.append((Batch(own, work.rows, True, times), 0))
            first += work.rows
        return outcomes, times

    def _infer(
        self, feeds: dict[str, np.ndarray[Any, Any]], works: list[Work], inline: bool
    ) -> list[np.ndarray[Any, Any]]:
        if inline or self._endable is None:
            return self._runner.run(feeds)
        return self._endable.run_while(feeds, partial(_wanted, works))


def _wanted(works: list[Work]) -> bool:
    """Whether a caller is there for one of them, and in time. Asked on any thread."""
    now = time.monotonic()
    return any(not work.future.done() and work.deadline > now for work in works)
