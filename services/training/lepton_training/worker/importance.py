"""What a model owes to each column: how much worse it is when that column's values are shuffled.

Permutation importance (Breiman 2001; Fisher, Rudin and Dominici 2019), on the test split: rows keep
all but one column, whose values come from other rows. A column of which another tells as much has
little importance by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lepton.evaluation import Predictions
from lepton.evaluation.resampling import Array, percentile_interval, resampled
from lepton_training.evaluation_settings import EvaluationSettings
from lepton_training.worker.data.examples import ArrayExamples
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.trainer import predict
from lepton_training.worker.tuning import Plan

_PREDICTIONS = 2_000_000
"""Rows that are predicted in all; with more columns or repeats, fewer rows of the test split."""
_ROWS_MIN = 200
_SMALLEST = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, slots=True)
class Importance:
    """Of one column."""

    column: str
    metric: str
    """``test_log_loss`` of classes, ``test_rmse`` of numbers."""
    rise: float
    """How much higher it is with the column shuffled, in the mean of all repeats."""
    interval: tuple[float, float] | None
    """Percentile interval of that, over the rows."""
    accuracy_drop: float | None
    """How much lower the accuracy is; of classes only."""
    rows: int
    repeats: int


def permutation_importance(
    network: nn.Module, problem: Problem, settings: EvaluationSettings, *, plan: Plan, seed: int
) -> tuple[Importance, ...]:
    """Of every column, the most important first."""
    names = list(dict.fromkeys(name for columns in problem.columns for name in columns))
    repeats = settings.importance_repeats
    rows = _rows(len(problem.test), len(names) * repeats, seed)
    inputs, targets = problem.test.inputs(rows), problem.test.targets[rows]

    def measured(changed: tuple[Tensor, ...]) -> tuple[Array, Array]:
        outputs = predict(network, ArrayExamples(changed, targets), problem.objective, plan)
        return _losses(problem, targets.numpy(), outputs)

    before = measured(inputs)
    found = []
    for number, name in enumerate(names):
        places = [
            torch.tensor([at for at, source in enumerate(columns) if source == name])
            for columns in problem.columns
        ]
        shuffled = [
            measured(_shuffled(inputs, places, np.random.default_rng([seed, number, repeat])))
            for repeat in range(repeats)
        ]
        after = tuple(np.mean([each[part] for each in shuffled], axis=0) for part in range(2))
        found.append(
            _importance(
                problem,
                name,
                before=before,
                after=(after[0], after[1]),
                settings=settings,
                seed=seed,
            )
        )
    return tuple(sorted(found, key=lambda column: -column.rise))


def _rows(count: int, runs: int, seed: int) -> Tensor:
    wanted = max(_ROWS_MIN, _PREDICTIONS // runs)
    if wanted >= count:
        return torch.arange(count)
    chosen = np.random.default_rng(seed).choice(count, wanted, replace=False)
    return torch.from_numpy(np.sort(chosen))


def _shuffled(
    inputs: tuple[Tensor, ...], places: Sequence[Tensor], random: np.random.Generator
) -> tuple[Tensor, ...]:
    """``inputs`` with those places of their last dimensions from other rows, all from the same."""
    order = torch.from_numpy(random.permutation(len(inputs[0])))
    changed = []
    for tensor, at in zip(inputs, places, strict=True):
        mixed = tensor
        if len(at):
            mixed = tensor.clone()
            mixed[..., at] = tensor[order][..., at]
        changed.append(mixed)
    return tuple(changed)


def _losses(problem: Problem, targets: Array, outputs: Array) -> tuple[Array, Array]:
    """Of each row its loss, FP64 ``[rows]``, and 1 where it is right; zeros where nothing is."""
    if problem.objective.kind == "classification":
        said = Predictions.of("classification", targets, outputs)
        loss = -np.log(np.maximum(said.chosen.astype(np.float64), _SMALLEST))
        return loss, (said.predicted == said.truth).astype(np.float64)
    errors = (outputs.astype(np.float64) - targets).reshape(len(targets), -1)
    return (errors**2).mean(axis=1), np.zeros(len(targets))


def _importance(
    problem: Problem,
    name: str,
    *,
    before: tuple[Array, Array],
    after: tuple[Array, Array],
    settings: EvaluationSettings,
    seed: int,
) -> Importance:
    classes = problem.objective.kind == "classification"
    losses = np.stack([before[0], after[0]], axis=1)

    def rise(weights: Array) -> Mapping[str, Array]:
        means = weights @ losses / weights.sum(axis=1, keepdims=True)
        if not classes:
            means = np.sqrt(means)
        return {"rise": means[:, 1] - means[:, 0]}

    rows = len(losses)
    interval = None
    if settings.resamples:
        drawn = resampled(rise, rows, settings.resamples, seed)["rise"]
        interval = percentile_interval(drawn, settings.confidence)
    return Importance(
        column=name,
        metric="test_log_loss" if classes else "test_rmse",
        rise=float(rise(np.ones((1, rows)))["rise"][0]),
        interval=interval,
        accuracy_drop=float((before[1] - after[1]).mean()) if classes else None,
        rows=rows,
        repeats=settings.importance_repeats,
    )
