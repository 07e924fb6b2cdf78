"""Weighted figures agree with scikit-learn's; intervals and tests with theory."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from lepton.evaluation import Predictions, intervals
from lepton.evaluation.comparison import bootstrap_p, mcnemar
from lepton.evaluation.resampling import percentile_interval, samples, whole


def classified(rows: int, classes: int, seed: int, skill: float = 1.5) -> Predictions:
    """A model that is right more often than not; with tied scores."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, rows)
    scores = np.round(random.normal(size=(rows, classes)) + skill * np.eye(classes)[truth], 1)
    outputs = (np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)).astype(np.float32)
    names = tuple(map(str, range(classes)))
    return Predictions.of("classification", truth, outputs, class_names=names)


@pytest.mark.parametrize("classes", [2, 4])
def test_figures_of_classes_with_weights_are_scikit_learns(classes: int) -> None:
    """Each row counts as often as it was drawn, some not at all."""
    said = classified(200, classes, 0)
    (block,) = samples(200, 3, seed=1)
    assert (block.sum(axis=1) == 200).all() and (block == 0).any()
    found = said.statistics()(block)
    outputs = said.whole()
    counted = [1] if classes == 2 else range(classes)
    for number, weights in enumerate(block):
        expected = {
            "test_accuracy": metrics.accuracy_score(
                said.truth, said.predicted, sample_weight=weights
            ),
            "macro_f1": metrics.f1_score(
                said.truth, said.predicted, average="macro", sample_weight=weights
            ),
            "test_log_loss": metrics.log_loss(
                said.truth, outputs.astype(np.float64), sample_weight=weights
            ),
            "roc_auc": np.mean(
                [
                    metrics.roc_auc_score(said.truth == c, outputs[:, c], sample_weight=weights)
                    for c in counted
                ]
            ),
            "pr_auc": np.mean(
                [
                    metrics.average_precision_score(
                        said.truth == c, outputs[:, c], sample_weight=weights
                    )
                    for c in counted
                ]
            ),
        }
        assert {name: values[number] for name, values in found.items()} == pytest.approx(
            expected, rel=1e-5
        )


def test_figures_of_numbers_with_weights_are_scikit_learns() -> None:
    """MAE, RMSE and R2, also far from 0."""
    random = np.random.default_rng(0)
    truth = random.normal(1e6, 2, (100, 1))
    said = Predictions.of("regression", truth, truth + random.normal(size=(100, 1)))
    (block,) = samples(100, 3, seed=1)
    found = said.statistics()(block)
    for number, weights in enumerate(block):
        arguments = {"sample_weight": weights}
        guess = said.whole()
        assert found["test_mae"][number] == pytest.approx(
            metrics.mean_absolute_error(truth, guess, **arguments)
        )
        assert found["test_rmse"][number] == pytest.approx(
            metrics.root_mean_squared_error(truth, guess, **arguments)
        )
        assert found["test_r2"][number] == pytest.approx(
            metrics.r2_score(truth, guess, **arguments)
        )


def test_samples_are_of_the_seed() -> None:
    """The same seed, the same samples; every row is drawn once in the mean."""
    first, again, other = (np.concatenate(list(samples(5000, 120, seed))) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.shape == (120, 5000)
    assert first.mean() == 1 and first.var() == pytest.approx(1, abs=0.02)


def test_an_interval_of_accuracy_is_as_wide_as_theory_has_it() -> None:
    """Of 1,000 rows of which 3 in 4 are right: the normal approximation is good there."""
    truth = np.zeros(1000, np.int64)
    outputs = np.tile(np.array([[0.9, 0.1]], np.float32), (1000, 1))
    outputs[:250] = [0.1, 0.9]
    said = Predictions.of("classification", truth, outputs, class_names=("a", "b"))
    found = intervals(said.statistics(), 1000, count=4000, confidence=0.95, seed=0)
    half = 1.96 * np.sqrt(0.75 * 0.25 / 1000)
    assert found["test_accuracy"] == pytest.approx((0.75 - half, 0.75 + half), abs=0.003)
    assert "roc_auc" not in found  # there is only one class
    assert intervals(said.statistics(), 1000, count=0, confidence=0.95, seed=0) == {}


def test_a_figure_without_meaning_in_most_samples_has_no_interval() -> None:
    values = np.r_[np.full(60, np.nan), np.ones(40)]
    assert percentile_interval(values, 0.9) is None
    assert percentile_interval(values[30:], 0.9) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("only_first", "only_second"), [(0, 0), (1, 0), (3, 9), (10, 10), (700, 800), (5000, 4600)]
)
def test_mcnemar_is_the_binomial_test(only_first: int, only_second: int) -> None:
    """Exactly, also where factorials fit no double."""
    trials = only_first + only_second
    expected = stats.binomtest(only_first, trials, 0.5).pvalue if trials else 1.0
    assert mcnemar(only_first, only_second) == pytest.approx(expected, rel=1e-6)


def test_a_bootstrap_p_value_is_never_zero() -> None:
    assert bootstrap_p(np.full(999, 0.1)) == pytest.approx(0.002)
    assert bootstrap_p(np.array([-1.0, 1.0])) == 1.0


def test_the_whole_is_a_sample_of_every_row_once() -> None:
    said = classified(300, 3, 5)
    expected = (said.truth == said.predicted).mean()
    assert whole(said.statistics(), 300)["test_accuracy"] == pytest.approx(expected)
