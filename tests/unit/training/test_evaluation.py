"""Figures agree with scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from lepton_training.worker.calibration import calibration_error, reliability
from lepton_training.worker.evaluation import (
    average_precision,
    evaluate_classes,
    evaluate_numbers,
    evaluate_scores,
    roc_auc,
)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
def test_agrees_with_scikit_learn(seed: int) -> None:
    """Also with a class that is never predicted, and one without examples."""
    random = np.random.default_rng(seed)
    classes = 6
    labels = random.integers(0, classes - 1, 300).astype(np.uint8)  # none of the last class
    scores = random.normal(size=(300, classes)) + 2 * np.eye(classes)[labels]
    scores[:, 1] -= 50  # never predicted
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    probabilities = probabilities.astype(np.float32)
    predicted = probabilities.argmax(axis=1)

    found = evaluate_classes(labels, probabilities)

    every = list(range(classes))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=0
    )
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert [c.precision for c in found.per_class] == pytest.approx(list(precision))
    assert [c.recall for c in found.per_class] == pytest.approx(list(recall))
    assert [c.f1 for c in found.per_class] == pytest.approx(list(f1))
    assert [c.support for c in found.per_class] == list(support)
    for average, f1_of in (("macro", found.macro_f1), ("weighted", found.weighted_f1)):
        assert f1_of == pytest.approx(
            metrics.f1_score(labels, predicted, average=average, zero_division=0)
        )
    assert found.accuracy == pytest.approx(metrics.f1_score(labels, predicted, average="micro"))
    assert found.weighted_precision == pytest.approx(
        metrics.precision_score(labels, predicted, average="weighted", zero_division=0)
    )
    present = every[:-1]  # scikit-learn has no area of a class without examples
    assert found.roc_auc == pytest.approx(
        np.mean([metrics.roc_auc_score(labels == c, probabilities[:, c]) for c in present])
    )
    assert found.pr_auc == pytest.approx(
        np.mean(
            [metrics.average_precision_score(labels == c, probabilities[:, c]) for c in present]
        )
    )
    assert found.macro_f1 == pytest.approx(
        metrics.f1_score(labels, predicted, average="macro", zero_division=0)
    )
    assert np.array_equal(
        found.confusion_matrix, metrics.confusion_matrix(labels, predicted, labels=every)
    )
    assert found.log_loss == pytest.approx(
        metrics.log_loss(labels, probabilities, labels=every), rel=1e-4
    )


@pytest.mark.parametrize("seed", range(3))
def test_areas_with_ties_agree_with_scikit_learn(seed: int) -> None:
    """Equal scores are in no order."""
    random = np.random.default_rng(seed)
    positive = random.random(200) < 0.3
    scores = np.round(random.random(200) + 0.3 * positive, 1)
    assert roc_auc(positive, scores) == pytest.approx(metrics.roc_auc_score(positive, scores))
    assert average_precision(positive, scores) == pytest.approx(
        metrics.average_precision_score(positive, scores)
    )


def test_figures_without_meaning_are_left_out() -> None:
    """One class, constant numbers, zeros."""
    one_class = evaluate_classes(np.zeros(3, np.int64), np.full((3, 2), 0.5, np.float32))
    assert one_class.roc_auc is None and "roc_auc" not in one_class.metrics()
    zeros = evaluate_numbers(np.zeros((3, 1)), np.ones((3, 1)))
    assert (zeros.r2, zeros.mape, zeros.rmse) == (None, None, 1.0)
    assert set(zeros.metrics()) == {"test_mae", "test_rmse"}


def test_numbers_agree_with_scikit_learn() -> None:
    """MAE, RMSE, R2 and MAPE; a baseline is measured on the same rows."""
    random = np.random.default_rng(0)
    truth = random.normal(5, 2, (100, 1))
    guess = truth + random.normal(size=(100, 1))
    found = evaluate_numbers(truth, guess, {"mean": np.full_like(truth, 5)})
    assert found.mae == pytest.approx(metrics.mean_absolute_error(truth, guess))
    assert found.rmse == pytest.approx(metrics.root_mean_squared_error(truth, guess))
    assert found.r2 == pytest.approx(metrics.r2_score(truth, guess))
    assert found.mape == pytest.approx(metrics.mean_absolute_percentage_error(truth, guess))
    assert found.metrics()["mean_rmse"] == pytest.approx(np.sqrt(((truth - 5) ** 2).mean()))


def test_anomalies_are_counted_above_the_normal_scores() -> None:
    """Perfectly apart: every area is 1, and every anomaly is found."""
    scores = np.r_[np.linspace(0, 1, 100), np.linspace(2, 3, 10)]
    found = evaluate_scores(scores > 1.5, scores)
    assert (found.roc_auc, found.pr_auc, found.recall) == (1.0, 1.0, 1.0)
    assert (found.examples, found.anomalies) == (110, 10)
    assert found.threshold == pytest.approx(0.95)


def test_calibration_is_the_gap_between_confidence_and_accuracy() -> None:
    """Right four times of five at a confidence of 0.9."""
    right = np.array([True, True, True, True, False])
    assert calibration_error(np.full(5, 0.9), right) == pytest.approx(0.1)


def test_a_reliability_diagram_has_the_confidence_and_accuracy_of_each_bin() -> None:
    """Its gaps, weighed by their examples, are the calibration error."""
    confidence = np.array([0.05, 0.9, 0.92, 1.0, 1.0], np.float32)
    right = np.array([False, True, False, True, True])
    bins = reliability(confidence, right)
    assert [each.examples for each in bins] == [1, *[0] * 12, 2, 2]
    assert (bins[13].confidence, bins[13].accuracy) == pytest.approx((0.91, 0.5))
    assert bins[1].confidence is None and bins[1].accuracy is None
    gaps = [each.examples * abs(each.confidence - each.accuracy) for each in bins if each.examples]
    assert sum(gaps) / 5 == pytest.approx(calibration_error(confidence, right))


def test_a_target_of_zero_has_no_share_in_mape() -> None:
    """And is counted, so that nobody takes the figure for that of all rows."""
    found = evaluate_numbers(np.array([[0.0], [2.0]]), np.array([[1.0], [3.0]]))
    assert (found.mape, found.zero_targets) == (0.5, 1)


def test_the_commonest_confusions_come_first() -> None:
    labels = np.array([0, 0, 0, 1, 2])
    predicted = np.eye(3, dtype=np.float32)[[1, 1, 2, 1, 0]]
    found = evaluate_classes(labels, predicted).confusions
    assert [(each.label, each.predicted, each.examples) for each in found] == [
        (0, 1, 2),
        (0, 2, 1),
        (2, 0, 1),
    ]
