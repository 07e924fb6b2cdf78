"""Figures agree with scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from lepton_training.worker.evaluation import evaluate


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

    found = evaluate(labels, probabilities)

    every = list(range(classes))
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=0
    )
    assert found.accuracy == pytest.approx(metrics.accuracy_score(labels, predicted))
    assert [c.precision for c in found.per_class] == pytest.approx(list(precision))
    assert [c.recall for c in found.per_class] == pytest.approx(list(recall))
    assert [c.f1 for c in found.per_class] == pytest.approx(list(f1))
    assert [c.support for c in found.per_class] == list(support)
    assert found.macro_f1 == pytest.approx(
        metrics.f1_score(labels, predicted, average="macro", zero_division=0)
    )
    assert np.array_equal(
        found.confusion_matrix, metrics.confusion_matrix(labels, predicted, labels=every)
    )
    assert found.log_loss == pytest.approx(
        metrics.log_loss(labels, probabilities, labels=every), rel=1e-4
    )
