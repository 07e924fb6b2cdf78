"""Measuring a session on samples: whether its rows are independent, and how long batches take."""

from __future__ import annotations

import re
import time
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.random import default_rng

from lepton_inference.signature import Signature
from lepton_inference.tensors import TensorSpec, bfloat16_bits

TYPICAL_ROWS = 16
"""The batch that a turn of a busy loop typically collects."""
_TYPICAL_SECONDS = 0.1
"""How long a batch may take on which threads are compared."""
MOST_INLINE_ROWS = 256
"""The largest batch that is tried inline."""
INLINE_SECONDS = 0.002
"""A batch may hold the event loop for so long: beyond, a worker thread wins."""

WORTH = 1.05
"""How many times the rows a second a batch of twice the rows has to give."""
BATCH_SECONDS = 50e-6
"""What a batch costs beside its model, generously."""

_UNDISTURBED = 0.8
"""What share of a core one thread has that nothing disturbs."""
_LONGEST_SECONDS = 0.25
"""A batch that takes longer is not made larger."""
_LONG_SECONDS = 0.5
"""Batches that took so long together are measured well enough."""

_NO_MEMORY = re.compile(r"bad[_ ]alloc|failed to allocate memory|out of memory", re.IGNORECASE)


def is_memory_error(error: BaseException) -> bool:
    """Whether memory could not be had; ONNX Runtime says so in words only."""
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


def samples(signature: Signature, rows: int) -> dict[str, np.ndarray[Any, Any]]:
    """Inputs for warm-up, the same at each load; a free dimension beyond the batch is 1."""
    return {spec.name: _sample(spec, rows, signature.batched) for spec in signature.inputs}


def warm(session: ort.InferenceSession, signature: Signature, rows: int) -> None:
    """Runs what a first batch would otherwise wait for. Raises MemoryError as below."""
    feeds = samples(signature, rows if signature.batched else 1)
    try:
        for _ in range(2):
            session.run(None, feeds)
    # A model may refuse a sample it was never meant for.
    except Exception as error:
        if is_memory_error(error):
            raise MemoryError from error


def rows_are_independent(session: ort.InferenceSession, signature: Signature) -> bool:
    """Whether a batch gives what its rows give alone, which sharing a batch depends on.

    Raises MemoryError where a sample is too much for the memory.
    """
    rows = 3
    feeds = samples(signature, rows)
    try:
        together = session.run(None, feeds)
        if any(array.shape[0] != rows for array in together):
            return False
        for row in range(rows):
            alone = session.run(None, {k: v[row : row + 1] for k, v in feeds.items()})
            for one, all_rows in zip(alone, together, strict=True):
                if one.dtype == object or one.shape != all_rows[row : row + 1].shape:
                    continue
                if not np.allclose(
                    one, all_rows[row : row + 1], rtol=1e-3, atol=1e-3, equal_nan=True
                ):
                    return False
    # A model may refuse a sample it was never meant for; its requests then run one by one.
    except Exception as error:
        if is_memory_error(error):
            raise MemoryError from error
        return False
    return True


def batch_seconds(session: ort.InferenceSession, signature: Signature, rows: int) -> float:
    """Seconds of the quickest of a few warm batches; infinite for a model that refuses samples.

    The quickest is what the machine's other work disturbed the least, so that what is chosen
    does not change from one load to the next. Raises MemoryError as above.
    """
    feeds = samples(signature, rows)
    times = []
    try:
        for _ in range(7):
            start = time.perf_counter()
            session.run(None, feeds)
            times.append(time.perf_counter() - start)
            if sum(times) > _LONG_SECONDS:
                break
    # As above: no sample fits every model, and one that cannot be measured gets a worker.
    except Exception as error:
        if is_memory_error(error):
            raise MemoryError from error
        return float("inf")
    return min(times)


def typical_rows(session: ort.InferenceSession, signature: Signature, most: int) -> int:
    """The batch to compare threads on: fewer rows of a model that takes long for one."""
    seconds = batch_seconds(session, signature, 1)
    return max(1, min(TYPICAL_ROWS, most, int(_TYPICAL_SECONDS / seconds)))


class CoreShare:
    """Whether one thread had a core to itself inside of the block."""

    def __enter__(self) -> CoreShare:
        self._began, self._used = time.perf_counter(), time.process_time()
        self.disturbed = False
        return self

    def __exit__(self, *_: object) -> None:
        elapsed = time.perf_counter() - self._began
        self.disturbed = time.process_time() - self._used < _UNDISTURBED * elapsed


def enough_rows(session: ort.InferenceSession, signature: Signature, most: int) -> int:
    """The batch, of one row doubled again and again, after which more is not worth it.

    More rows than a model needs to be fast only wait for each other, fall out of the processor's
    cache and take memory. One size may be unlucky, so two in a row have to be worse. Nothing
    longer than a quarter of a second is tried: whoever loads the model waits for it.
    """
    best, most_a_second, rows, worse = 1, 0.0, 1, 0
    while worse < 2:
        seconds = batch_seconds(session, signature, rows)
        a_second = rows / (seconds + BATCH_SECONDS)
        if a_second > WORTH * most_a_second:
            best, most_a_second, worse = rows, a_second, 0
        else:
            worse += 1
        if rows == most or seconds > _LONGEST_SECONDS:
            break
        rows = min(2 * rows, most)
    return best


def inline_rows(session: ort.InferenceSession, signature: Signature, rows: int, most: int) -> int:
    """The largest batch, of ``rows`` doubled again and again, that may hold the event loop."""
    most = min(most, MOST_INLINE_ROWS)
    while rows < most:
        more = min(2 * rows, most)
        if batch_seconds(session, signature, more) > INLINE_SECONDS:
            break
        rows = more
    return rows


def _sample(spec: TensorSpec, rows: int, batched: bool) -> np.ndarray[Any, Any]:
    shape = tuple(
        rows if axis == 0 and batched else max(dim, 1) for axis, dim in enumerate(spec.shape)
    )
    if spec.datatype.name == "BYTES":
        return np.full(shape, "", dtype=object)
    if spec.datatype.dtype.kind == "f" or spec.datatype.name == "BF16":
        # Seeded: what is chosen at load must not change from one load to the next.
        values = default_rng(7).standard_normal(shape)
        if spec.datatype.name == "BF16":
            return bfloat16_bits(values)
        return values.astype(spec.datatype.dtype)
    return np.zeros(shape, spec.datatype.dtype)
