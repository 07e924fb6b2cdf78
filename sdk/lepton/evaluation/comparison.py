"""Whether one model is better than another on the same rows, or luck would do it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton.evaluation.predictions import Predictions
from lepton.evaluation.resampling import Array, percentile_interval, resampled, whole

SMALLER_IS_BETTER = frozenset({"test_log_loss", "test_mae", "test_rmse"})


class NotComparable(ValueError):
    """The two were not asked about the same rows; the text says what differs."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one figure."""

    metric: str
    first: float
    second: float
    difference: float
    """Second less first."""
    interval: tuple[float, float] | None
    """Percentile interval of the difference, by the paired bootstrap."""
    p_value: float
    """Two-sided; how easily chance alone makes such a difference."""
    test: str
    """``mcnemar-exact`` or ``paired-bootstrap``."""
    better: str
    """``first``, ``second``, or ``neither`` where the test does not tell them apart."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "metric": self.metric,
            "first": self.first,
            "second": self.second,
            "difference": self.difference,
            "interval": list(self.interval) if self.interval else None,
            "p_value": self.p_value,
            "test": self.test,
            "better": self.better,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of two models on the rows of one test split."""

    rows: int
    only_first_right: int | None
    """Rows that the first alone has right; None where nothing is right or wrong."""
    only_second_right: int | None
    confidence: float
    resamples: int
    seed: int
    differences: tuple[Difference, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "rows": self.rows,
            "only_first_right": self.only_first_right,
            "only_second_right": self.only_second_right,
            "confidence": self.confidence,
            "resamples": self.resamples,
            "seed": self.seed,
            "differences": [difference.to_dict() for difference in self.differences],
        }


def compare(
    first: Predictions,
    second: Predictions,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Every figure that both have.

    Accuracy is tested by McNemar's test, exactly; all others by the paired bootstrap: both are
    measured on the same samples of rows.

    Raises:
        NotComparable: Another task, other rows, or other classes.
    """
    _same_rows(first, second)
    rows = len(first)
    areas = first.outputs is not None and second.outputs is not None
    both = [side.statistics(areas=areas) for side in (first, second)]
    values = [whole(statistics, rows) for statistics in both]
    drawn = resampled(
        lambda weights: {
            name: value - before[name]
            for before in [both[0](weights)]
            for name, value in both[1](weights).items()
        },
        rows,
        resamples,
        seed,
    )
    counts: tuple[int, int] | None = None
    if first.kind == "classification":
        right = [side.predicted == side.truth for side in (first, second)]
        counts = (int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()))
    found = []
    for name, samples in drawn.items():
        before, after = values[0][name], values[1][name]
        if not math.isfinite(after - before):
            continue
        exact = name == "test_accuracy" and counts is not None
        p_value = mcnemar(*counts) if exact and counts else bootstrap_p(samples)
        better = "neither"
        if p_value < 1 - confidence:
            risen = after > before
            better = "second" if risen != (name in SMALLER_IS_BETTER) else "first"
        found.append(
            Difference(
                name,
                before,
                after,
                after - before,
                percentile_interval(samples, confidence),
                p_value,
                "mcnemar-exact" if exact else "paired-bootstrap",
                better,
            )
        )
    only_first, only_second = counts or (None, None)
    return Comparison(rows, only_first, only_second, confidence, resamples, seed, tuple(found))


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact test (1947), two-sided: of the rows that one alone has right, as many would
    be the first's as the second's if both were as good: binomial with a half."""
    trials, fewer = only_first + only_second, min(only_first, only_second)
    # In logarithms: the terms would not fit a double from about a thousand trials on.
    terms = [
        math.lgamma(trials + 1) - math.lgamma(k + 1) - math.lgamma(trials - k + 1)
        for k in range(fewer + 1)
    ]
    largest = max(terms)
    tail = largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
    return min(1.0, 2 * math.exp(tail - trials * math.log(2)))


def bootstrap_p(samples: Array) -> float:
    """Two-sided: twice the share of samples on the other side of 0, and never 0 itself
    (Davison and Hinkley 1997, 4.2)."""
    known = samples[np.isfinite(samples)]
    smaller = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return float(min(1.0, 2 * (smaller + 1) / (len(known) + 1)))


def _same_rows(first: Predictions, second: Predictions) -> None:
    wrong: Mapping[str, bool] = {
        f"one is a model of {first.kind}, the other of {second.kind}": first.kind != second.kind,
        "their test splits differ": (
            not first.test_digest or first.test_digest != second.test_digest
        ),
        "their classes differ": first.class_names != second.class_names,
    }
    for reason, holds in wrong.items():
        if holds:
            raise NotComparable(reason)
    if first.truth.shape != second.truth.shape or not np.array_equal(first.truth, second.truth):
        raise NotComparable("the true values of their rows differ")
