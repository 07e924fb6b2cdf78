"""A job that begins with a registered version's weights, and does not forget what that knew."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lepton_mesh.durable import write_private
from lepton_mesh.errors import FailedPrecondition
from lepton_training.recipes.hyperparameters import Fault
from lepton_training.spec import JobSpec, JobSpecInvalid
from lepton_training.warm_start import PAPERS_FILE, PREPROCESSING_FILE, WEIGHTS_FILE
from lepton_training.worker.data.fitted import Fitted, WarmStartMismatch
from lepton_training.worker.data.loading import load_problem
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.platform import Platform
from lepton_training.worker.trainer import predict
from lepton_training.worker.tuning import Plan

log = logging.getLogger(__name__)

_DIRECTORY = "warm-start"
_RETAINED_DIRECTORY = "retained"
_BEFORE_FILE = "retained.json"
_LOWER_IS_BETTER = "rmse"
"""How the names of such figures end."""
_SHOWN = 20


class Forgotten(FailedPrecondition):
    reason = "RETAINED_METRIC_DROPPED"


def papers(spec: JobSpec, problem: Problem) -> dict[str, Any]:
    """What a later job must know to begin with this one's weights, beside weights and graph; and
    what a row is compared with to explain it."""
    return {
        "recipe": spec.recipe,
        "shape": asdict(problem.shape),
        "class_names": list(problem.class_names),
        "mean": problem.objective.activation.shift,
        "deviation": problem.objective.activation.scale,
        "columns": [list(names) for names in problem.columns],
        "dataset": spec.dataset,
        "test_digest": problem.test_digest,
        "baseline": {name: row.tolist() for name, row in problem.baseline.items()} or None,
    }


def fitted_of(version: str, spec: JobSpec, problem: Problem) -> Fitted:
    """What was fitted for ``problem``, or taken along to it."""
    told = papers(spec, problem)
    return Fitted(
        version,
        told["shape"],
        tuple(told["class_names"]),
        told["mean"],
        told["deviation"],
        problem.preprocessing,
        problem.columns,
    )


@dataclass(frozen=True, slots=True)
class WarmStart:
    """A version's weights, and what was fitted for them."""

    version: str
    weights: Mapping[str, Tensor]
    fitted: Fitted
    partial: bool
    dataset: str = ""
    """Dataset version that it was trained on; empty where its papers do not say."""
    test_digest: str = ""
    """Of the test split of that, as :attr:`Problem.test_digest`."""

    @classmethod
    def fetch(
        cls, platform: Platform, directory: Path, spec: JobSpec, artifacts: Mapping[str, Any]
    ) -> WarmStart | None:
        """What the spec's ``warm_start`` names; None without one.

        Args:
            directory: The job's.
            artifacts: File name -> ``[name, SHA-256]`` of the version's files.
        """
        if spec.warm_start is None:
            return None
        into = directory / _DIRECTORY
        into.mkdir(exist_ok=True)
        for name, (artifact, sha256) in artifacts.items():
            platform.fetch_artifact(artifact, sha256, into / name)
        told = json.loads((into / PAPERS_FILE).read_text())
        graph = into / PREPROCESSING_FILE
        version, partial = spec.warm_start.model_version, spec.warm_start.partial
        return cls(
            version,
            torch.load(into / WEIGHTS_FILE, weights_only=True),
            Fitted(
                version,
                told["shape"],
                () if partial else tuple(told["class_names"]),
                told["mean"],
                told["deviation"],
                graph.read_bytes() if graph.exists() else None,
                tuple(tuple(names) for names in told["columns"]),
            ),
            partial,
            told.get("dataset", ""),
            told.get("test_digest", ""),
        )

    def load_into(self, network: nn.Module) -> None:
        """Takes the weights whose names and shapes agree.

        Raises:
            WarmStartMismatch: Others do not, and not just a part is to be taken; or none does.
        """
        wanted = network.state_dict()
        agreeing = {
            name: value
            for name, value in self.weights.items()
            if name in wanted and wanted[name].shape == value.shape
        }
        different = [
            f"{name}: {_shape(self.weights.get(name))} there, {_shape(wanted.get(name))} here"
            for name in sorted(wanted.keys() | self.weights.keys())
            if name not in agreeing
        ]
        if different and (not self.partial or not agreeing):
            shown = "; ".join(different[:_SHOWN])
            more = len(different) - _SHOWN
            raise WarmStartMismatch(
                f"the weights of {self.version} do not fit: {shown}"
                f"{f'; and {more} more' if more > 0 else ''}. Give the recipe and the "
                "hyperparameters that it was trained with"
                + ("" if self.partial else ", or set warm_start.partial to begin these anew")
            )
        network.load_state_dict(agreeing, strict=False)
        log.info(
            "begins with %d of %d tensors of %s", len(agreeing), len(self.weights), self.version
        )
        for line in different:
            log.info("begins anew: %s", line)


def _shape(value: Tensor | None) -> str:
    return "none" if value is None else str(list(value.shape))


class Retention:
    """Watches that a network stays as good as it was on the test split of older data."""

    def __init__(
        self, problem: Problem, plan: Plan, dataset: str, figure: tuple[str, float], max_drop: float
    ) -> None:
        self._problem, self._plan = problem, plan
        self._dataset, self._figure, self._max_drop = dataset, figure, max_drop

    @classmethod
    def begin(
        cls,
        platform: Platform,
        directory: Path,
        spec: JobSpec,
        *,
        problem: Problem,
        network: nn.Module,
        plan: Plan,
        warm: WarmStart | None,
    ) -> Retention | None:
        """Measures ``network`` as it was taken from ``warm``; None where nothing is watched.

        Raises:
            JobSpecInvalid: The recipe has no figure that could be watched.
            WarmStartMismatch: The version was trained on what would be its test split here.
        """
        settings = spec.warm_start
        if warm is None or settings is None or settings.retain is None:
            return None
        dataset = settings.retain.dataset
        platform.fetch_dataset(dataset, directory / _RETAINED_DIRECTORY)
        older = load_problem(
            directory / _RETAINED_DIRECTORY,
            replace(spec, dataset=dataset),
            fitted_of(warm.version, spec, problem),
        )
        if dataset == warm.dataset and older.test_digest != warm.test_digest:
            raise WarmStartMismatch(
                f"the test split of {dataset} is not the one that {warm.version} was tested on: it "
                "was trained on some of these rows, which say nothing of what is forgotten. Give "
                "this job the seed and the data that the version's job had"
            )
        kept = directory / _BEFORE_FILE
        if not kept.exists():  # otherwise an earlier attempt did it, before it trained
            figures = _figures(network, older, plan)
            if not figures:
                raise JobSpecInvalid(
                    [
                        Fault(
                            "spec.warm_start.retain",
                            f"recipe '{spec.recipe}' has no figure of a test split to watch",
                        )
                    ]
                )
            write_private(kept, json.dumps(figures).encode())
        ((name, before),) = json.loads(kept.read_text()).items()
        log.info("%s of %s on %s: %.4f", name, warm.version, dataset, before)
        return cls(older, plan, dataset, (name, before), settings.retain.max_drop)

    def check(self, network: nn.Module) -> dict[str, float]:
        """The figure before and after the training, by name.

        Raises:
            Forgotten: It is worse by more than is allowed.
        """
        name, before = self._figure
        after = _figures(network, self._problem, self._plan)[name]
        drop = worse_by(name, before, after)
        log.info("%s on %s: %.4f, and %.4f before", name, self._dataset, after, before)
        # Written so that NaN is too much.
        if not drop <= self._max_drop:
            raise Forgotten(
                f"{name} on {self._dataset} was {before:.4f} and is {after:.4f}, worse by "
                f"{drop:.4f} where warm_start.retain.max_drop is {self._max_drop:g}: the model is "
                "not registered. Train on old and new data together, for fewer epochs or with a "
                "lower learning rate"
            )
        return {f"retained_{name}_before": before, f"retained_{name}": after}


def worse_by(name: str, before: float, after: float) -> float:
    """How much worse ``after`` is: a difference, of errors as a share of what they were."""
    if name.endswith(_LOWER_IS_BETTER):
        return (after - before) / before if before else after
    return before - after


def _figures(network: nn.Module, problem: Problem, plan: Plan) -> dict[str, float]:
    predicted = predict(network, problem.test, problem.objective, plan)
    return dict(problem.objective.glance(problem.test.targets.numpy(), predicted))
