"""Shadows: a version that is asked a share of what an endpoint is asked, and never answers.

Its answers are compared with those that were given. Whatever becomes of it, live traffic does
not notice: it is asked once the live answer is there, its queue is small and its memory bounded
(what finds no room is dropped and counted), it runs and is compared on threads that yield to
others, and nothing that it raises leaves this module.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from lepton_inference.batch import Outcome
from lepton_inference.settings import EndpointInvalid, ModelSettings
from lepton_inference.signature import Signature, Tails
from lepton_inference.tensors import Column
from lepton_mesh.errors import LeptonError

if TYPE_CHECKING:
    from lepton_inference.model import LoadedModel

log = logging.getLogger(__name__)

MAX_WAITING = 64
"""Requests that wait for a shadow; the next is dropped."""
MAX_HELD_BYTES = 64 << 20
"""Bytes of requests and live answers that one shadow holds."""
# Low enough that a busy machine serves live traffic first, and not the lowest: a thread that is
# kept from running while it holds Python's lock keeps everybody waiting.
_NICE = 10

T = TypeVar("T")
_Arrays = list["np.ndarray[Any, Any]"]


def lower_priority() -> None:
    """Has this thread, and those it starts, yield to others, where threads have priorities."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)


async def quietly(work: Callable[..., T], *arguments: object) -> T:
    """As asyncio.to_thread, on a thread of low priority."""
    executor = ThreadPoolExecutor(1, "shadow", lower_priority)
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, work, *arguments)
    finally:
        executor.shutdown(wait=False)


def shadow_settings(settings: ModelSettings) -> ModelSettings:
    """How a shadow runs: as its endpoint's models do, one batch at a time, with a short queue."""
    return replace(
        settings,
        batching=replace(
            settings.batching,
            max_queue=min(settings.batching.max_queue, MAX_WAITING),
            priority_levels=1,
            default_priority=1,
        ),
        execution=replace(settings.execution, instances=1),
        response_cache_bytes=0,
    )


@dataclass(slots=True)
class OutputComparison:
    """What was found of one output."""

    max_abs_difference: float = 0.0
    """The largest finite one of numbers."""
    differing: int = 0
    """Requests in which it disagreed."""
    rows: int = 0
    """Rows of scores that were ranked: of floating point, along the last dimension."""
    same_argmax: int = 0
    """Those whose highest score stands in the same place."""

    def add(self, other: OutputComparison) -> None:
        self.max_abs_difference = max(self.max_abs_difference, other.max_abs_difference)
        self.differing += other.differing
        self.rows += other.rows
        self.same_argmax += other.same_argmax


@dataclass(slots=True)
class Comparison:
    """What became of the requests that a shadow was given."""

    compared: int = 0
    agreed: int = 0
    """Those of them in which every output agreed."""
    failed: int = 0
    """Those that the shadow did not answer."""
    dropped: int = 0
    """Those for which there was no room."""
    outputs: dict[str, OutputComparison] = field(default_factory=dict)


class Mirror:
    """A running shadow. Lives on one event loop.

    Args:
        model: The shadow's.
        percent: The share of requests that it is given, more than 0 and at most 100.
        tolerance: The largest absolute difference in which floating-point numbers agree.
    """

    def __init__(self, model: LoadedModel, percent: float, tolerance: float) -> None:
        self.model = model
        self.comparison = Comparison()
        self._share = percent / 100
        self._tolerance = tolerance
        self._held_bytes = 0

    def bond(self, live: Signature) -> Bond:
        """To a live model of that signature; raises EndpointInvalid if they cannot be compared."""
        return Bond(self, live)

    def draw(self) -> bool:
        """Whether the next request is given to it: one of its share, and there is room."""
        if self._share < 1 and random.random() >= self._share:  # noqa: S311  no secret
            return False
        # Asked here, where it costs live traffic the least.
        if self.model.batcher.waiting >= self.model.batcher.max_queue:
            self.comparison.dropped += 1
            return False
        return True

    def ask(
        self, bond: Bond, columns: Sequence[Column], rows: int, tails: Tails, outcome: Outcome
    ) -> None:
        """Gives it one request, and the answer that was given; never raises."""
        try:
            live = bond.outputs_of(outcome, rows)
            size = sum(map(_size, columns)) + sum(map(_size, live))
            if self._held_bytes + size > MAX_HELD_BYTES:
                self.comparison.dropped += 1
                return
            try:
                future = self.model.batcher.submit(
                    tuple(columns[index] for index in bond.inputs),
                    rows,
                    tuple(tails[index] for index in bond.inputs),
                )
            except LeptonError:  # its queue is full by now, or it is being replaced
                self.comparison.dropped += 1
                return
            # A view would keep the whole batch that the live request was part of.
            live = [array.copy() for array in live]
            self._held_bytes += size
            future.add_done_callback(partial(self._answered, bond, live, rows, size))
        except Exception:
            log.exception("a request could not be given to a shadow")

    def _answered(
        self, bond: Bond, live: _Arrays, rows: int, size: int, future: asyncio.Future[Outcome]
    ) -> None:
        if future.cancelled() or future.exception() is not None:
            self._held_bytes -= size
            self.comparison.failed += 1
            return
        compare = partial(_compare, bond, live, future.result(), rows, self._tolerance)
        comparing = future.get_loop().run_in_executor(_comparer(), compare)
        comparing.add_done_callback(partial(self._compared, size))

    def _compared(self, size: int, done: asyncio.Future[dict[str, OutputComparison]]) -> None:
        self._held_bytes -= size
        if done.cancelled() or (error := done.exception()) is not None:
            self.comparison.failed += 1
            if not done.cancelled():
                log.error("a shadow's answer could not be compared", exc_info=error)
            return
        found = done.result()
        self.comparison.compared += 1
        self.comparison.agreed += not any(one.differing for one in found.values())
        for name, one in found.items():
            self.comparison.outputs.setdefault(name, OutputComparison()).add(one)


class Bond:
    """One live model and its endpoint's shadow: which tensors are whose.

    Args:
        mirror: The shadow.
        live: The signature of the live model.

    Raises:
        EndpointInvalid: The shadow cannot take what the live model takes, or shares no output.
    """

    def __init__(self, mirror: Mirror, live: Signature) -> None:
        self.mirror = mirror
        other = mirror.model.signature
        _check_inputs(live, other)
        place = {spec.name: index for index, spec in enumerate(live.inputs)}
        self.inputs = [place[spec.name] for spec in other.inputs]
        """For each input of the shadow, which of the live model's it is."""
        theirs = {spec.name: index for index, spec in enumerate(other.outputs)}
        self.outputs = [
            (spec.name, index, theirs[spec.name])
            for index, spec in enumerate(live.outputs)
            if spec.name in theirs
        ]
        """Name, index in the live model's outputs, index in the shadow's."""
        if not self.outputs:
            raise EndpointInvalid(
                f"the shadow has the outputs {', '.join(theirs)}, and none of what it would be "
                f"compared with: {', '.join(spec.name for spec in live.outputs)}",
                field="shadow",
            )

    def offer(self, columns: Sequence[Column], rows: int, tails: Tails, outcome: Outcome) -> None:
        """Gives the shadow its share of requests, once the live answer has been handed on."""
        if self.mirror.draw():
            asyncio.get_running_loop().call_soon(
                self.mirror.ask, self, columns, rows, tails, outcome
            )

    def outputs_of(self, outcome: Outcome, rows: int) -> _Arrays:
        """The live answer's outputs that are compared."""
        return [_part(outcome, live, rows) for _, live, _ in self.outputs]


def _check_inputs(live: Signature, other: Signature) -> None:
    wanted = {spec.name: spec for spec in other.inputs}
    fits = live.batched == other.batched and wanted.keys() == {spec.name for spec in live.inputs}
    for spec in live.inputs if fits else ():
        taken = wanted[spec.name]
        fits = (
            fits
            and taken.datatype == spec.datatype
            and len(taken.shape) == len(spec.shape)
            and all(most in (-1, dim) for most, dim in zip(taken.shape, spec.shape, strict=True))
        )
    if not fits:
        raise EndpointInvalid(
            f"the shadow takes {_inputs(other)}; it would be given what the endpoint's targets "
            f"take: {_inputs(live)}",
            field="shadow",
        )


def _inputs(signature: Signature) -> str:
    each = ", ".join(
        f"{spec.name} {spec.datatype.name} {list(spec.shape)}" for spec in signature.inputs
    )
    return each if signature.batched else f"{each} (without batches)"


@cache
def _comparer() -> ThreadPoolExecutor:
    """One thread for the comparisons of all shadows."""
    return ThreadPoolExecutor(1, "shadow-comparison", initializer=lower_priority)


def _size(column: Column) -> int:
    if not isinstance(column, np.ndarray):
        return len(column)
    texts = sum(map(len, column.reshape(-1))) if column.dtype == object else 0
    return column.nbytes + texts


def _part(outcome: Outcome, index: int, rows: int) -> np.ndarray[Any, Any]:
    batch, first = outcome
    array = batch.arrays[index]
    return array[first : first + rows] if batch.batched else array


def _compare(
    bond: Bond, live: _Arrays, outcome: Outcome, rows: int, tolerance: float
) -> dict[str, OutputComparison]:
    return {
        name: compare(array, _part(outcome, theirs, rows), tolerance)
        for (name, _, theirs), array in zip(bond.outputs, live, strict=True)
    }


def compare(
    live: np.ndarray[Any, Any], other: np.ndarray[Any, Any], tolerance: float
) -> OutputComparison:
    """Two answers to one request in one output.

    Text and whole numbers agree when they are equal, floating-point numbers when no two differ
    by more than ``tolerance``; NaN equals NaN. Outputs of another shape or datatype disagree.
    """
    found = OutputComparison()
    if live.shape != other.shape or live.dtype != other.dtype:
        found.differing = 1
        return found
    if live.dtype == object:
        found.differing = int(not np.array_equal(live, other))
        return found
    floating = live.dtype.kind not in "biu"
    one, two = live.astype(np.float64), other.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinity less infinity, which is looked at below
        difference = np.abs(one - two)
    equal = (one == two) | (np.isnan(one) & np.isnan(two)) if floating else live == other
    difference[equal] = 0.0
    found.max_abs_difference = float(difference[np.isfinite(difference)].max(initial=0.0))
    agrees = difference <= tolerance if floating else equal
    found.differing = int(not agrees.all())
    if floating and live.ndim > 1 and live.shape[-1] > 1 and live.size:
        same = one.argmax(axis=-1) == two.argmax(axis=-1)
        found.rows, found.same_argmax = same.size, int(same.sum())
    return found
