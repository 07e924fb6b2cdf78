"""What a job is to do: the spec, checked as a whole before anything runs.

:func:`parse_spec` takes the spec as plain data (from a request or a file) and
either returns a :class:`JobSpec` with every default filled in, or raises
:class:`JobSpecInvalid` with *all* faults, each with its path.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lepton_mesh.errors import InvalidArgument
from lepton_mesh.resources import ID_PATTERN
from lepton_training.recipes import RECIPES
from lepton_training.recipes.hyperparameters import (
    DataSettings,
    Fault,
    Hyperparameters,
    Settings,
    parse_settings,
)

_DATASET = re.compile(rf"datasets/{ID_PATTERN}/versions/([1-9][0-9]{{0,17}}|latest)")
_MODEL = re.compile(rf"models/{ID_PATTERN}")
_FIELDS = (
    "recipe",
    "dataset",
    "model",
    "hyperparameters",
    "data",
    "seed",
    "resources",
    "labels",
)
_LABELS_MAX = 64
_SEED_MAX = 2**63 - 1

S = TypeVar("S", bound=Settings)


class JobSpecInvalid(InvalidArgument):
    """The spec is wrong; ``faults`` has every path with what is wrong there."""

    reason = "JOB_SPEC_INVALID"

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        count = len(self.faults)
        super().__init__(
            f"the job's spec has {count} fault{'s' * (count > 1)}: "
            + "; ".join(f"{fault.path}: {fault.message}" for fault in self.faults),
            faults=json.dumps([[fault.path, fault.message] for fault in self.faults]),
        )


@dataclass(frozen=True, slots=True)
class Resources:
    """What a job may use; 0 means no limit of its own."""

    cpus: int = 0
    """Cores; all of the machine's when 0."""
    memory_mib: int = 0
    timeout_seconds: int = 0
    """A job whose processes run longer fails with TIMEOUT; while it is stopped no time passes."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A spec without faults."""

    recipe: str
    dataset: str
    """``datasets/{dataset}/versions/{n}``, or ``.../latest`` before it is resolved."""
    model: str
    hyperparameters: Hyperparameters
    """Every value, defaults included."""
    data: DataSettings
    """How the dataset's files are read, defaults included."""
    seed: int = 0
    resources: Resources = Resources()
    labels: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that :func:`parse_spec` reads back."""
        return {
            "recipe": self.recipe,
            "dataset": self.dataset,
            "model": self.model,
            "hyperparameters": self.hyperparameters.model_dump(),
            "data": self.data.model_dump(),
            "seed": self.seed,
            "resources": {
                "cpus": self.resources.cpus,
                "memory_mib": self.resources.memory_mib,
                "timeout_seconds": self.resources.timeout_seconds,
            },
            "labels": dict(self.labels),
        }


def parse_spec(document: Mapping[str, Any], *, cores: int) -> JobSpec:
    """The spec in ``document``.

    Args:
        cores: Cores of the machine that would run it; asking for more is a fault.

    Raises:
        JobSpecInvalid: With every fault.
    """
    faults: list[Fault] = []
    faults += unknown_names("spec", document, _FIELDS)
    recipe = _text(document, "recipe", faults)
    hyperparameters: Hyperparameters | None = None
    data: DataSettings | None = None
    if recipe:
        found = RECIPES.get(recipe)
        if found is None:
            faults.append(
                Fault("spec.recipe", f"unknown recipe '{recipe}'{_known(recipe, RECIPES)}")
            )
        else:
            hyperparameters = _settings(document, "hyperparameters", found.hyperparameters, faults)
            data = _settings(document, "data", found.data.settings, faults)
            if hyperparameters is not None and data is not None:
                faults += found.conflicts(hyperparameters, data)
    dataset = _text(document, "dataset", faults)
    if dataset and not _DATASET.fullmatch(dataset):
        faults.append(
            Fault(
                "spec.dataset",
                f"'{dataset}' is not a dataset version; expected "
                "datasets/<dataset>/versions/<n> or .../versions/latest",
            )
        )
    model = _text(document, "model", faults)
    if model and not _MODEL.fullmatch(model):
        faults.append(
            Fault(
                "spec.model",
                f"'{model}' is not a model name; expected models/<model>, the id in lower-case "
                "letters, digits and '-', beginning with a letter",
            )
        )
    seed = _integer(document, "seed", "spec.seed", _SEED_MAX, faults)
    resources = _resources(_mapping(document, "resources", faults), cores, faults)
    labels = _labels(_mapping(document, "labels", faults), faults)
    if faults or hyperparameters is None or data is None:
        raise JobSpecInvalid(faults)
    return JobSpec(recipe, dataset, model, hyperparameters, data, seed, resources, labels)


def unknown_names(path: str, given: Iterable[str], known: Iterable[str]) -> list[Fault]:
    """A fault for each name that is not known, saying which are."""
    names = tuple(known)
    return [
        Fault(f"{path}.{name}", f"unknown field{_known(name, names)}")
        for name in given
        if name not in names
    ]


def _known(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f"; did you mean '{near[0]}'?" if near else ";"
    return f"{hint} known: {', '.join(names)}"


def _settings(
    document: Mapping[str, Any], name: str, declared: type[S], faults: list[Fault]
) -> S | None:
    settings, wrong = parse_settings(
        declared, _mapping(document, name, faults), path=f"spec.{name}"
    )
    faults += wrong
    return settings


def _text(document: Mapping[str, Any], name: str, faults: list[Fault]) -> str:
    value = document.get(name)
    if value is None or value == "":
        faults.append(Fault(f"spec.{name}", "must be given"))
        return ""
    if not isinstance(value, str):
        faults.append(Fault(f"spec.{name}", f"expected text, got {type(value).__name__}"))
        return ""
    return value


def _mapping(document: Mapping[str, Any], name: str, faults: list[Fault]) -> Mapping[str, Any]:
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        faults.append(Fault(f"spec.{name}", f"expected a mapping, got {type(value).__name__}"))
        return {}
    return value


def _integer(
    document: Mapping[str, Any], name: str, path: str, maximum: int, faults: list[Fault]
) -> int:
    value = document.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int):
        faults.append(Fault(path, f"expected a whole number, got {value!r}"))
        return 0
    if not 0 <= value <= maximum:
        faults.append(Fault(path, f"{value} is not between 0 and {maximum}"))
        return 0
    return value


def _resources(values: Mapping[str, Any], cores: int, faults: list[Fault]) -> Resources:
    limits = {"cpus": cores, "memory_mib": 1 << 30, "timeout_seconds": 7 * 24 * 3600}
    faults += unknown_names("spec.resources", values, limits)
    numbers = {
        name: _integer(values, name, f"spec.resources.{name}", maximum, faults)
        for name, maximum in limits.items()
    }
    return Resources(**numbers)


def _labels(values: Mapping[str, Any], faults: list[Fault]) -> dict[str, str]:
    if len(values) > _LABELS_MAX:
        faults.append(Fault("spec.labels", f"{len(values)} labels; at most {_LABELS_MAX}"))
    for name, value in values.items():
        if not isinstance(value, str):
            faults.append(Fault(f"spec.labels.{name}", "expected text"))
    return {str(name): str(value) for name, value in values.items()}
