"""The bootstrap over the rows of a test split (Efron and Tibshirani 1993): seeded, in blocks.

A sample with replacement is told by how often each row is in it, so that one pass of array
arithmetic gives a figure for many samples at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Statistics = Callable[[Array], Mapping[str, Array]]
"""From weights FP64 ``[samples, rows]`` to figures by name, each FP64 ``[samples]``; NaN where a
figure has no meaning in a sample."""

_CELLS = 1 << 18
"""Weights at once: two megabytes, which stay in a processor's cache."""


def samples(rows: int, count: int, seed: int) -> Iterator[Array]:
    """Blocks of weights FP64 ``[samples, rows]``: how often each row is in each of ``count``
    samples of ``rows`` rows with replacement. The same seed gives the same samples."""
    random = np.random.default_rng(seed)
    block = max(1, _CELLS // rows)
    for begin in range(0, count, block):
        size = min(block, count - begin)
        drawn = random.integers(0, rows, (size, rows)) + np.arange(size)[:, None] * rows
        counted = np.bincount(drawn.ravel(), minlength=size * rows)
        yield counted.reshape(size, rows).astype(np.float64)


def resampled(statistics: Statistics, rows: int, count: int, seed: int) -> dict[str, Array]:
    """The figures of ``count`` samples, each FP64 ``[count]``."""
    blocks = [statistics(weights) for weights in samples(rows, count, seed)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def whole(statistics: Statistics, rows: int) -> dict[str, float]:
    """The figures of all rows, each counted once."""
    return {name: float(value[0]) for name, value in statistics(np.ones((1, rows))).items()}


def percentile_interval(values: Array, confidence: float) -> tuple[float, float] | None:
    """The middle ``confidence`` of a figure's samples; None where it has no meaning in most."""
    known = values[np.isfinite(values)]
    if 2 * len(known) <= len(values):
        return None
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def intervals(
    statistics: Statistics, rows: int, *, count: int, confidence: float, seed: int
) -> dict[str, tuple[float, float]]:
    """Percentile intervals by name; figures that have none are left out."""
    if not count:
        return {}
    found = {
        name: percentile_interval(values, confidence)
        for name, values in resampled(statistics, rows, count, seed).items()
    }
    return {name: interval for name, interval in found.items() if interval is not None}
