"""What a classifier gets right, from its predictions: NumPy only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class against the rest; a ratio without cases is 0, as scikit-learn has it."""

    label: int
    precision: float
    recall: float
    f1: float
    support: int
    """Test examples of this class."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Figures on the test split."""

    examples: int
    accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    """Unweighted mean over the classes that occur in labels or predictions."""
    log_loss: float
    """Mean negative log-likelihood of the true class, natural logarithm; no probability counts as
    less than 1.2e-7, as in scikit-learn."""
    per_class: tuple[ClassFigures, ...]
    confusion_matrix: tuple[tuple[int, ...], ...]
    """Row: true class; column: predicted class."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)

    def metrics(self) -> Mapping[str, float]:
        """The single numbers, by the names a model version carries."""
        return {
            "test_accuracy": self.accuracy,
            "test_log_loss": self.log_loss,
            "macro_precision": self.macro_precision,
            "macro_recall": self.macro_recall,
            "macro_f1": self.macro_f1,
        }


def evaluate(
    labels: npt.NDArray[np.integer[Any]], probabilities: npt.NDArray[np.float32]
) -> Evaluation:
    """Compares ``probabilities`` ``[N, classes]`` with the true ``labels`` ``[N]``."""
    truth = labels.astype(np.int64)
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    matrix = np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(
        classes, classes
    )
    hits = matrix.diagonal()
    precision = _ratio(hits, matrix.sum(axis=0))
    recall = _ratio(hits, matrix.sum(axis=1))
    f1 = _ratio(2 * hits, matrix.sum(axis=0) + matrix.sum(axis=1))
    seen = (matrix.sum(axis=0) + matrix.sum(axis=1)) > 0
    chosen = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return Evaluation(
        examples=len(truth),
        accuracy=float(hits.sum() / len(truth)),
        macro_precision=float(precision[seen].mean()),
        macro_recall=float(recall[seen].mean()),
        macro_f1=float(f1[seen].mean()),
        log_loss=float(-np.log(np.maximum(chosen, np.finfo(np.float32).eps)).mean()),
        per_class=tuple(
            ClassFigures(
                label, float(precision[label]), float(recall[label]), float(f1[label]), int(count)
            )
            for label, count in enumerate(matrix.sum(axis=1))
        ),
        confusion_matrix=tuple(tuple(int(cell) for cell in row) for row in matrix),
    )


def _ratio(part: npt.NDArray[np.int64], whole: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(len(part), np.float64), where=whole > 0)
