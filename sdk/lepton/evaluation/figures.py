"""Figures of predictions with weighted rows, for many weightings at once.

All take weights FP64 ``[samples, rows]``; whole numbers, since the weight of a row is how often
it is in a sample. With all weights 1 they are the usual figures, by the same names.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lepton.evaluation.resampling import Array, Statistics

_SMALLEST = float(np.finfo(np.float32).eps)
"""No probability counts as less, as in scikit-learn."""


def of_classes(
    truth: Array, predicted: Array, chosen: Array, classes: int, outputs: Array | None
) -> Statistics:
    """Accuracy, macro F1 and log loss, and with ``outputs`` the areas.

    Args:
        truth: INT64 ``[rows]``.
        predicted: INT64 ``[rows]``, the most probable class.
        chosen: FP32 ``[rows]``, the probability of the true class.
        classes: How many there are.
        outputs: FP32 ``[rows, classes]``; areas are of the second of two classes, and of more
            the mean of each against the rest.
    """
    right = (truth == predicted).astype(np.float64)
    loss = -np.log(np.maximum(chosen.astype(np.float64), _SMALLEST))
    hits = _sums_by(np.where(truth == predicted, truth, classes), classes + 1)
    support, guesses = _sums_by(truth, classes), _sums_by(predicted, classes)
    ranked = []
    if outputs is not None:
        counted = [1] if classes == 2 else range(classes)
        ranked = [_Ranking(truth == label, outputs[:, label]) for label in counted]

    def statistics(weights: Array) -> dict[str, Array]:
        total = weights.sum(axis=1)
        both = support(weights) + guesses(weights)
        f1 = np.divide(
            2 * hits(weights)[:, :classes], both, out=np.zeros_like(both), where=both > 0
        )
        found = {
            "test_accuracy": weights @ right / total,
            "macro_f1": f1.sum(axis=1) / (both > 0).sum(axis=1),
            "test_log_loss": weights @ loss / total,
        }
        if ranked:
            areas = np.array([ranking.areas(weights) for ranking in ranked])
            found["roc_auc"], found["pr_auc"] = _mean_of_known(areas)
        return found

    return statistics


def of_numbers(truth: Array, predictions: Array) -> Statistics:
    """MAE, RMSE and R2 of ``predictions``, over all of ``[rows, outputs]``."""
    wanted = truth.astype(np.float64).reshape(len(truth), -1)
    errors = predictions.astype(np.float64).reshape(wanted.shape) - wanted
    size, squared = np.abs(errors).mean(axis=1), (errors**2).mean(axis=1)
    centered = wanted - wanted.mean(axis=0)  # R2 is the same, and rounding is smaller

    def statistics(weights: Array) -> dict[str, Array]:
        total = weights.sum(axis=1)
        mean = weights @ centered / total[:, None]
        spread = weights @ (centered**2).mean(axis=1) / total - (mean**2).mean(axis=1)
        error = weights @ squared / total
        varied = spread > 1e-12 * max(float((centered**2).mean()), 1e-300)
        ratio = np.divide(error, spread, out=np.full_like(error, np.nan), where=varied)
        return {
            "test_mae": weights @ size / total,
            "test_rmse": np.sqrt(error),
            "test_r2": 1 - ratio,
        }

    return statistics


def of_scores(anomalous: Array, scores: Array) -> Statistics:
    """Both areas of anomaly ``scores`` ``[rows]``."""
    ranking = _Ranking(anomalous.astype(bool), scores)

    def statistics(weights: Array) -> dict[str, Array]:
        roc, precision_recall = ranking.areas(weights)
        return {"roc_auc": roc, "pr_auc": precision_recall}

    return statistics


class _Ranking:
    """Rows from the highest score down; equal scores are one step.

    Both areas are sums over the steps that have positive rows, of which there are few where there
    are many classes.
    """

    def __init__(self, positive: Array, scores: Array) -> None:
        self._order = np.argsort(-scores, kind="stable")
        begins = np.append(True, np.diff(scores[self._order]) != 0)
        step_of = np.cumsum(begins) - 1
        bounds = np.append(np.flatnonzero(begins), len(scores))
        ranks = np.flatnonzero(positive[self._order])
        self._positive = self._order[ranks]
        steps, self._first = np.unique(step_of[ranks], return_index=True)
        self._begin, self._end = bounds[steps], bounds[steps + 1]

    def areas(self, weights: Array) -> tuple[Array, Array]:
        """Under the receiver operating characteristic, and average precision."""
        count, rows = weights.shape
        seen = np.zeros((count, rows + 1))
        np.cumsum(weights[:, self._order], axis=1, out=seen[:, 1:])
        begin, end = seen[:, self._begin], seen[:, self._end]
        new = np.add.reduceat(weights[:, self._positive], self._first, axis=1)
        found = np.cumsum(new, axis=1)
        positives = new.sum(axis=1)
        negatives = seen[:, -1] - positives
        # Of the negative rows, those of lower steps, and half of those of the same.
        below = negatives[:, None] - (end - found) + (end - begin - new) / 2
        precision = found / np.maximum(end, 1)  # weights are whole numbers
        unknown = np.full(count, np.nan)
        pairs = positives * negatives
        won, steps = np.einsum("ij,ij->i", below, new), np.einsum("ij,ij->i", precision, new)
        return (
            np.divide(won, pairs, out=unknown.copy(), where=pairs > 0),
            np.divide(steps, positives, out=unknown, where=positives > 0),
        )


def _sums_by(codes: Array, count: int) -> Callable[[Array], Array]:
    """From weights ``[samples, rows]`` to their sums ``[samples, count]`` over rows of a code."""
    order = np.argsort(codes, kind="stable")
    there, first = np.unique(codes[order], return_index=True)

    def sums(weights: Array) -> Array:
        found = np.zeros((len(weights), count))
        found[:, there] = np.add.reduceat(weights[:, order], first, axis=1)
        return found

    return sums


def _mean_of_known(values: Array) -> Array:
    """``[classes, 2, samples]`` to ``[2, samples]``; NaN only where no class has a value."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0).sum(axis=0)
    mean: Array = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean
