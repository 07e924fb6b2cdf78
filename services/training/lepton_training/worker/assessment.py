"""All that is told of a trained model: figures, intervals, slices, importance, explanations.

The figures go into ``evaluation.json``, and a bounded part of them into the model version; further
files beside it hold what was predicted for each test row, pictures, and explanations.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
from torch import nn

from lepton.evaluation import Predictions, intervals
from lepton.evaluation import predictions as kept
from lepton_training.evaluation_settings import EvaluationSettings
from lepton_training.worker import plots
from lepton_training.worker.attributions import explain
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.evaluation import Evaluation
from lepton_training.worker.importance import permutation_importance
from lepton_training.worker.tuning import Plan

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]

DOCUMENT, EXPLANATIONS, EXPLAINED = "evaluation.json", "explanations.json", "explanations.png"
_AREA_CELLS = 100_000_000
"""Areas have no intervals where samples x rows x classes are more: they would take long."""
_VERSION_BYTES = 192 * 1024
"""Of the part that the model version holds; the registry takes 256 KiB."""
_LARGE_PARTS = ("slices", "confusion_matrix", "per_class", "importance", "confusions")
"""What a version goes without when it would be too large, in this order."""


@dataclass(frozen=True, slots=True)
class Assessment:
    """Of one model."""

    evaluation: Evaluation
    document: Mapping[str, Any]
    """All of it, as plain data for JSON."""
    attachments: tuple[str, ...]
    """Files in the job's directory that were written."""

    def for_version(self) -> dict[str, Any]:
        """The part that goes into a model version; ``left_out`` names what is only in the file."""
        part = dict(self.document)
        left_out = []
        for name in _LARGE_PARTS:
            if len(json.dumps(part)) <= _VERSION_BYTES:
                break
            if part.pop(name, None):
                left_out.append(name)
        return part | ({"left_out": left_out} if left_out else {})


def assess(
    directory: Path,
    problem: Problem,
    outputs: Array,
    settings: EvaluationSettings,
    *,
    network: nn.Module | None,
    plan: Plan,
    seed: int,
) -> Assessment:
    """Measures ``outputs``, which are the network's for the test split, after the activation.

    Args:
        directory: Where files are written.
        network: What gave them; without it there is no importance, and nothing is explained.
        seed: Of the bootstrap's samples, the columns' permutations, the rows to explain.
    """
    targets = problem.test.targets.numpy()
    evaluation = problem.objective.evaluate(targets, outputs)
    document = evaluation.to_dict()
    if "cleaning" in problem.report:  # how many rows the figures are not about
        document["cleaning"] = problem.report["cleaning"]
    attachments = [DOCUMENT]
    kind = problem.objective.kind
    if kind is not None:
        said = Predictions.of(
            kind, targets, outputs, test_digest=problem.test_digest, class_names=problem.class_names
        )
        document |= _sampled(problem, said, settings, seed)
        said.bounded().write(directory / kept.FILE)
        attachments.append(kept.FILE)
        attachments += _beside("pictures", lambda: plots.draw(directory, said, document))
    if network is not None and problem.columns and settings.importance_repeats:
        began = time.perf_counter()
        found = permutation_importance(network, problem, settings, plan=plan, seed=seed)
        document["importance"] = [asdict(column) for column in found]
        log.info("importance of columns: %.1f s", time.perf_counter() - began)
    if network is not None and kind is not None and settings.explanations:
        attachments += _beside(
            "explanations",
            lambda: _explanations(
                directory, problem, outputs, network, count=settings.explanations, seed=seed
            ),
        )
    (directory / DOCUMENT).write_text(json.dumps(document, indent=1, allow_nan=False))
    return Assessment(evaluation, document, tuple(attachments))


def _beside(what: str, make: Callable[[], Iterable[str]]) -> tuple[str, ...]:
    """Files that a model is registered without when they cannot be made: the training was long."""
    began = time.perf_counter()
    try:
        written = tuple(make())
    except Exception:
        log.warning("the model is registered without %s", what, exc_info=True)
        return ()
    log.info("%s: %.1f s", what, time.perf_counter() - began)
    return written


def _sampled(
    problem: Problem, said: Predictions, settings: EvaluationSettings, seed: int
) -> dict[str, Any]:
    """The test split, intervals of its figures, and the same of its slices."""
    return {
        "test_set": {"rows": len(said), "digest": problem.test_digest},
        "bootstrap": {
            "resamples": settings.resamples,
            "confidence": settings.confidence,
            "seed": seed,
        },
        "intervals": _intervals(said, settings, seed),
        "slices": [
            {
                "column": part.column,
                "value": part.value,
                "rows": len(rows),
                "small": len(rows) < settings.small_slice,
                "metrics": dict(problem.objective.evaluate(rows.truth, rows.whole()).metrics()),
                "intervals": _intervals(rows, settings, seed),
            }
            for part in problem.slices
            for rows in [said.take(part.rows)]
        ],
    }


def _intervals(
    said: Predictions, settings: EvaluationSettings, seed: int
) -> dict[str, list[float]]:
    cells = settings.resamples * said.whole().size
    found = intervals(
        said.statistics(areas=cells <= _AREA_CELLS),
        len(said),
        count=settings.resamples,
        confidence=settings.confidence,
        seed=seed,
    )
    return {name: list(interval) for name, interval in found.items()}


def _explanations(
    directory: Path,
    problem: Problem,
    outputs: Array,
    network: nn.Module,
    *,
    count: int,
    seed: int,
) -> list[str]:
    found, maps = explain(network, problem, outputs, count=count, seed=seed)
    content = {"method": "integrated gradients", "rows": [asdict(each) for each in found]}
    (directory / EXPLANATIONS).write_text(json.dumps(content, allow_nan=False))
    if not maps:
        return [EXPLANATIONS]
    images = [problem.test.inputs(slice(each.row, each.row + 1))[0][0] for each in found]
    plots.draw_maps(
        directory / EXPLAINED,
        [image.permute(1, 2, 0).squeeze(2).numpy() for image in images],
        maps,
        [f"{each.predicted}, true {each.truth}" for each in found],
    )
    return [EXPLANATIONS, EXPLAINED]
