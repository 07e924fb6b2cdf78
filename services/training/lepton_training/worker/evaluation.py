"""How good predictions are: of classes, of numbers, of anomaly scores. NumPy only.

Where a figure has no meaning (ROC-AUC with a single class, MAPE of zeros) it is None.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lepton_training.worker.calibration import ReliabilityBin, calibration_error, reliability

Array = npt.NDArray[Any]

_MATRIX_CLASSES = 256
_CONFUSIONS = 100
_SURE = 0.9
_NORMAL_SHARE = 0.95
"""Of the normal rows, that stay below the threshold at which anomalies are counted."""


class Evaluation(Protocol):
    """Figures on a test split."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""

    def metrics(self) -> Mapping[str, float]:
        """The single numbers, by the names a model version carries."""


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """One class against the rest; a ratio without cases is 0, as scikit-learn has it."""

    label: int
    precision: float
    recall: float
    f1: float
    support: int
    """Test examples of this class."""
    roc_auc: float | None
    pr_auc: float | None


@dataclass(frozen=True, slots=True)
class Confusion:
    """A class that is taken for another."""

    label: int
    predicted: int
    examples: int


@dataclass(frozen=True, slots=True)
class ClassEvaluation:
    """Of classes."""

    examples: int
    accuracy: float
    """Also the micro average of precision, recall and F1, which are one and the same here."""
    macro_precision: float
    macro_recall: float
    macro_f1: float
    """Unweighted mean over the classes that occur in labels or predictions."""
    weighted_precision: float
    weighted_recall: float
    weighted_f1: float
    """Mean over the classes, each weighed by its test examples."""
    roc_auc: float | None
    """Area under the receiver operating characteristic: of the second of two classes; of more,
    the mean of each against the rest."""
    pr_auc: float | None
    """Average precision, likewise."""
    log_loss: float
    """Mean negative log-likelihood of the true class, natural logarithm; no probability counts as
    less than 1.2e-7, as in scikit-learn."""
    calibration_error: float
    """Expected calibration error (Guo et al. 2017) of the predicted class over 15 equal bins."""
    reliability: tuple[ReliabilityBin, ...]
    """Those bins."""
    per_class: tuple[ClassFigures, ...]
    confusion_matrix: tuple[tuple[int, ...], ...]
    """Row: true class; column: predicted class. Empty with more than 256 classes."""
    confusions: tuple[Confusion, ...]
    """The commonest, at most 100 and the commonest first."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def metrics(self) -> Mapping[str, float]:
        return _numbers(
            test_accuracy=self.accuracy,
            test_log_loss=self.log_loss,
            macro_precision=self.macro_precision,
            macro_recall=self.macro_recall,
            macro_f1=self.macro_f1,
            weighted_f1=self.weighted_f1,
            roc_auc=self.roc_auc,
            pr_auc=self.pr_auc,
            calibration_error=self.calibration_error,
        )


@dataclass(frozen=True, slots=True)
class NumberEvaluation:
    """Of numbers, in the target's own unit; over all rows and outputs."""

    examples: int
    mae: float
    rmse: float
    r2: float | None
    mape: float | None
    """Mean absolute error by the true value's size, over true values that are not 0."""
    zero_targets: int
    """True values that are 0, which have no share in MAPE."""
    baselines: Mapping[str, float]
    """RMSE on the same rows of what needs no training, such as ``mean``."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def metrics(self) -> Mapping[str, float]:
        return _numbers(
            test_mae=self.mae,
            test_rmse=self.rmse,
            test_r2=self.r2,
            test_mape=self.mape,
            **{f"{name}_rmse": value for name, value in self.baselines.items()},
        )


@dataclass(frozen=True, slots=True)
class AnomalyEvaluation:
    """Of anomaly scores: the higher, the stranger."""

    examples: int
    anomalies: int
    roc_auc: float | None
    pr_auc: float | None
    threshold: float | None
    """95% of the normal rows have a lower score."""
    recall: float | None
    """Share of the anomalies whose score is above the threshold."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def metrics(self) -> Mapping[str, float]:
        return _numbers(
            roc_auc=self.roc_auc,
            pr_auc=self.pr_auc,
            anomaly_threshold=self.threshold,
            anomaly_recall=self.recall,
        )


@dataclass(frozen=True, slots=True)
class SampleEvaluation:
    """Of images that were generated."""

    samples: int
    pixel_mean: float
    pixel_deviation: float
    """Over the samples, the mean over pixels: near 0 they are all alike."""
    confident: float | None
    """Share of the samples of which a classifier is sure: a probability above 0.9."""
    classes: int | None
    """How many classes those samples have."""
    per_class: tuple[int, ...]
    """How many of those samples each class has."""
    judge_accuracy: float | None
    """The classifier's own, on real test images."""
    variety: float | None
    """How much samples of one class differ from each other, by how much real images of one do:
    near 0 each class is drawn in a single way, however sure the classifier is."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def metrics(self) -> Mapping[str, float]:
        return _numbers(
            samples_deviation=self.pixel_deviation,
            samples_confident=self.confident,
            samples_classes=self.classes,
            judge_accuracy=self.judge_accuracy,
            samples_variety=self.variety,
        )


class Judgement(NamedTuple):
    """What a classifier says of generated images."""

    probabilities: Array
    """``[N, classes]``."""
    accuracy: float
    """Its own, on real test images."""
    real_variety: float
    """:func:`variety` of real images."""


def evaluate_samples(images: Array, judged: Judgement | None) -> SampleEvaluation:
    """Of generated ``images`` ``[N, H, W]``, and what a classifier says of them."""
    confident, classes, accuracy, relative = None, None, None, None
    counts: tuple[int, ...] = ()
    if judged is not None:
        sure = judged.probabilities.max(axis=1) > _SURE
        found = np.bincount(
            judged.probabilities[sure].argmax(axis=1), minlength=judged.probabilities.shape[1]
        )
        confident, classes = float(sure.mean()), int((found > 0).sum())
        counts = tuple(int(count) for count in found)
        accuracy = judged.accuracy
        spread = variety(images, judged.probabilities.argmax(axis=1))
        relative = spread / judged.real_variety if judged.real_variety else None
    return SampleEvaluation(
        samples=len(images),
        pixel_mean=float(images.mean()),
        pixel_deviation=float(images.std(axis=0).mean()),
        confident=confident,
        classes=classes,
        per_class=counts,
        judge_accuracy=accuracy,
        variety=relative,
    )


def variety(images: Array, classes: Array) -> float:
    """The deviation of ``images`` ``[N, H, W]`` of one class, mean over pixels and over the classes
    that have two images or more; 0 without one."""
    groups = [images[classes == one] for one in np.unique(classes)]
    found = [float(group.std(axis=0).mean()) for group in groups if len(group) > 1]
    return sum(found) / len(found) if found else 0.0


def evaluate_classes(labels: Array, probabilities: Array) -> ClassEvaluation:
    """Compares ``probabilities`` ``[N, classes]`` with the true ``labels`` ``[N]``."""
    truth = labels.astype(np.int64)
    classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    right = predicted == truth
    hits = np.bincount(truth[right], minlength=classes)
    support, guesses = (np.bincount(labels, minlength=classes) for labels in (truth, predicted))
    precision = _ratio(hits, guesses)
    recall = _ratio(hits, support)
    f1 = _ratio(2 * hits, guesses + support)
    seen = (guesses + support) > 0
    share = support / len(truth)
    chosen = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    areas = [
        (roc_auc(truth == label, column), average_precision(truth == label, column))
        for label, column in enumerate(probabilities.T)
    ]
    counted = areas[1:] if classes == 2 else areas
    return ClassEvaluation(
        examples=len(truth),
        accuracy=float(hits.sum() / len(truth)),
        macro_precision=float(precision[seen].mean()),
        macro_recall=float(recall[seen].mean()),
        macro_f1=float(f1[seen].mean()),
        weighted_precision=float(precision @ share),
        weighted_recall=float(recall @ share),
        weighted_f1=float(f1 @ share),
        roc_auc=_mean([area for area, _ in counted]),
        pr_auc=_mean([area for _, area in counted]),
        log_loss=float(-np.log(np.maximum(chosen, np.finfo(np.float32).eps)).mean()),
        calibration_error=calibration_error(probabilities.max(axis=1), right),
        reliability=reliability(probabilities.max(axis=1), right),
        per_class=tuple(
            ClassFigures(
                label,
                float(precision[label]),
                float(recall[label]),
                float(f1[label]),
                int(support[label]),
                *areas[label],
            )
            for label in range(classes)
        ),
        confusion_matrix=_confusion_matrix(truth, predicted, classes),
        confusions=_confusions(truth[~right], predicted[~right], classes),
    )


def evaluate_numbers(
    targets: Array, predictions: Array, baselines: Mapping[str, Array] | None = None
) -> NumberEvaluation:
    """Compares ``predictions`` with the true ``targets``, both ``[N, outputs]``.

    Args:
        baselines: Predictions of what needs no training, by name.
    """
    truth = targets.astype(np.float64)
    errors = predictions.astype(np.float64) - truth
    spread = float(((truth - truth.mean(axis=0)) ** 2).sum())
    sized = truth != 0
    return NumberEvaluation(
        examples=len(truth),
        mae=float(np.abs(errors).mean()),
        rmse=_rmse(errors),
        r2=1 - float((errors**2).sum()) / spread if spread else None,
        mape=float(np.abs(errors[sized] / truth[sized]).mean()) if sized.any() else None,
        zero_targets=int((~sized).sum()),
        baselines={
            name: _rmse(values.astype(np.float64) - truth)
            for name, values in (baselines or {}).items()
        },
    )


def evaluate_scores(anomalous: Array, scores: Array) -> AnomalyEvaluation:
    """Compares ``scores`` ``[N]`` with what is ``anomalous``, BOOL ``[N]``."""
    strange = anomalous.astype(bool)
    normal = scores[~strange]
    threshold = float(np.quantile(normal, _NORMAL_SHARE)) if len(normal) else None
    recall = None
    if threshold is not None and strange.any():
        recall = float((scores[strange] > threshold).mean())
    return AnomalyEvaluation(
        examples=len(scores),
        anomalies=int(strange.sum()),
        roc_auc=roc_auc(strange, scores),
        pr_auc=average_precision(strange, scores),
        threshold=threshold,
        recall=recall,
    )


def roc_auc(positive: Array, scores: Array) -> float | None:
    """Share of (positive, negative) pairs in the right order, ties half: the Mann-Whitney U."""
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        return None
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # from 1; ties have their mean
    total = float(ranks[inverse][positive].sum())
    return (total - positives * (positives + 1) / 2) / (positives * negatives)


def average_precision(positive: Array, scores: Array) -> float | None:
    """The area under the precision-recall steps; equal scores are one step."""
    positives = int(positive.sum())
    if not positives:
        return None
    order = np.argsort(-scores, kind="stable")
    found = np.cumsum(positive[order])
    last = np.append(np.diff(scores[order]) != 0, True)  # of each run of equal scores
    precision = found[last] / (np.flatnonzero(last) + 1)
    return float((precision * np.diff(found[last], prepend=0)).sum() / positives)


def _confusion_matrix(truth: Array, predicted: Array, classes: int) -> tuple[tuple[int, ...], ...]:
    if classes > _MATRIX_CLASSES:
        return ()
    cells = np.bincount(truth * classes + predicted, minlength=classes * classes)
    return tuple(tuple(row) for row in cells.reshape(classes, classes).tolist())


def _confusions(truth: Array, predicted: Array, classes: int) -> tuple[Confusion, ...]:
    """Of rows that are wrong."""
    pairs, counts = np.unique(truth * classes + predicted, return_counts=True)
    first = np.argsort(-counts, kind="stable")[:_CONFUSIONS]
    return tuple(Confusion(*divmod(int(pairs[at]), classes), int(counts[at])) for at in first)


def _numbers(**values: float | None) -> dict[str, float]:
    return {
        name: value for name, value in values.items() if value is not None and math.isfinite(value)
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _rmse(errors: Array) -> float:
    return float(np.sqrt((errors**2).mean()))


def _ratio(part: Array, whole: Array) -> npt.NDArray[np.float64]:
    return np.divide(part, whole, out=np.zeros(len(part), np.float64), where=whole > 0)
