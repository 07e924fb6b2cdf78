"""Whether a model is as often right as it says (Guo et al. 2017, "On Calibration of Modern Neural
Networks"): confidence and accuracy over 15 equal bins of confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_BINS = 15


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Predictions of about the same confidence."""

    lower: float
    upper: float
    examples: int
    confidence: float | None
    """Mean probability of the predicted class; None in an empty bin."""
    accuracy: float | None
    """Share that is right: the same as the confidence, of a calibrated model."""


def calibration_error(confidence: Array, right: Array) -> float:
    """Mean gap between confidence and accuracy over the bins, each weighed by its examples."""
    gap = np.bincount(_bins(confidence), weights=right - confidence.astype(np.float64))
    return float(np.abs(gap).sum() / len(right))


def reliability(confidence: Array, right: Array) -> tuple[ReliabilityBin, ...]:
    """Confidence and accuracy in each of those bins."""
    bins = _bins(confidence)
    counts = np.bincount(bins, minlength=_BINS)
    sure = np.bincount(bins, weights=confidence.astype(np.float64), minlength=_BINS)
    hits = np.bincount(bins, weights=right, minlength=_BINS)
    return tuple(
        ReliabilityBin(
            lower=index / _BINS,
            upper=(index + 1) / _BINS,
            examples=int(count),
            confidence=float(sure[index] / count) if count else None,
            accuracy=float(hits[index] / count) if count else None,
        )
        for index, count in enumerate(counts)
    )


def _bins(confidence: Array) -> npt.NDArray[np.int64]:
    return np.clip((confidence * _BINS).astype(np.int64), 0, _BINS - 1)
