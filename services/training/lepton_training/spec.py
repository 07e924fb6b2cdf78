"""What a job is to do: the spec, checked as a whole before anything runs.

:func:`parse_spec` takes the spec as plain data (from a request or a file) and
either returns a :class:`JobSpec` with every default filled in, or raises
:class:`JobSpecInvalid` with *all* faults, each with its path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any

from lepton_mesh.errors import METADATA_CHARACTERS, InvalidArgument
from lepton_mesh.resources import ID_PATTERN
from lepton_training import own_code
from lepton_training.evaluation_settings import EvaluationSettings, evaluation_conflicts
from lepton_training.job import Priority
from lepton_training.own_code import Code
from lepton_training.recipes import RECIPES
from lepton_training.recipes.data import DataKind
from lepton_training.recipes.hyperparameters import (
    FAULTS_MAX,
    DataSettings,
    Fault,
    Hyperparameters,
)
from lepton_training.spec_fields import (
    DATASET_VERSION,
    integer_of,
    known_names,
    mapping_of,
    not_finite,
    settings_of,
    text_of,
    unknown_names,
)
from lepton_training.warm_start import WarmStart, parse_warm_start

_MODEL = re.compile(rf"models/{ID_PATTERN}")
_FIELDS = (
    "recipe",
    "code",
    "python",
    "dataset",
    "model",
    "hyperparameters",
    "data",
    "evaluation",
    "seed",
    "resources",
    "labels",
    "priority",
    "retry",
    "deterministic",
    "warm_start",
)
_LABELS_MAX, _LABEL_MAX, _LABEL_VALUE_MAX = 64, 63, 256
"""Labels, and the characters of the name and of the value of one."""
_BYTES_MAX = 256 << 10
_SEED_MAX = 2**63 - 1
_ATTEMPTS_MAX = 100
_BACKOFF_MAX_SECONDS = 24 * 3600.0
_FIRST_BACKOFF_SECONDS, _LONGEST_BACKOFF_SECONDS = 1.0, 300.0


class JobSpecInvalid(InvalidArgument):
    """The spec is wrong; ``faults`` has every path with what is wrong there.

    The metadata's ``fields`` are the paths with commas between them: as many whole ones as travel.
    """

    reason = "JOB_SPEC_INVALID"

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        count = len(self.faults)
        super().__init__(
            f"the job's spec has {count} fault{'s' * (count > 1)}: "
            + "; ".join(f"{fault.path}: {fault.message}" for fault in self.faults),
            fields=_fields(self.faults),
        )


@dataclass(frozen=True, slots=True)
class Resources:
    """What a job may use; 0 means no limit of its own."""

    cpus: int = 0
    """Cores; all of the machine's when 0."""
    memory_mib: int = 0
    """Of all of its processes together."""
    timeout_seconds: int = 0
    """A job whose processes run longer fails with TIMEOUT; while it is stopped no time passes."""
    gpus: int = 0
    """GPUs of its own; with 0 it sees none."""


@dataclass(frozen=True, slots=True)
class Retry:
    """When a failed attempt is followed by another."""

    max_attempts: int = 0
    """Attempts that may fail before the job does; as the service is set when 0."""
    initial_backoff_seconds: float = _FIRST_BACKOFF_SECONDS
    """Between the first failure and the next attempt; doubles with each failure."""
    max_backoff_seconds: float = _LONGEST_BACKOFF_SECONDS

    def backoff_seconds(self, failures: int) -> float:
        """What is waited after so many failures, from 1."""
        doubled = self.initial_backoff_seconds * 2.0 ** min(failures - 1, 64)
        return min(doubled, self.max_backoff_seconds)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A spec without faults."""

    recipe: str
    """Empty with ``code``."""
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
    priority: str = Priority.NORMAL.name
    retry: Retry = Retry()
    warm_start: WarmStart | None = None
    deterministic: bool = False
    """Whether the same spec gives the same weights bit for bit, on machines of one kind."""
    evaluation: EvaluationSettings = field(
        default_factory=lambda: EvaluationSettings.model_validate({})
    )
    code: Code | None = None
    """The user's own, in place of a recipe."""
    requirements: str = ""
    """Text of the code's requirements file; empty for the service's own packages."""

    @property
    def data_kind(self) -> DataKind | None:
        """How the dataset is read; None where the user's code does it by itself."""
        if self.code is None:
            return RECIPES[self.recipe].data
        return own_code.KINDS[self.code.data_kind].kind if self.code.data_kind else None

    @property
    def smallest_side(self) -> int:
        """Images with a shorter side cannot be used."""
        return 1 if self.code is not None else RECIPES[self.recipe].smallest_side

    @property
    def trains(self) -> str:
        """What trains, in words."""
        return f"recipe '{self.recipe}'" if self.code is None else self.code.function

    def to_dict(self) -> dict[str, Any]:
        """Plain data that :func:`parse_spec` reads back."""
        return {
            "recipe": self.recipe,
            "code": None if self.code is None else self.code.to_dict(),
            "python": {"requirements": self.requirements} if self.requirements else None,
            "dataset": self.dataset,
            "model": self.model,
            "hyperparameters": self.hyperparameters.model_dump(),
            "data": self.data.model_dump(),
            "seed": self.seed,
            "resources": asdict(self.resources),
            "labels": dict(self.labels),
            "priority": self.priority,
            "retry": asdict(self.retry),
            "deterministic": self.deterministic,
            "evaluation": self.evaluation.model_dump(),
            "warm_start": None if self.warm_start is None else asdict(self.warm_start),
        }


def check_size(document: Mapping[str, Any]) -> None:
    """Refuses what is too large for a record that is kept, sent and told of again and again.

    To be asked of what users send, before :func:`parse_spec`.

    Raises:
        JobSpecInvalid: As JSON it has more than 256 KiB.
    """
    size = len(json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode())
    if size > _BYTES_MAX:
        raise JobSpecInvalid(
            [
                Fault(
                    "spec",
                    f"has {size} bytes as JSON; at most {_BYTES_MAX}. What is larger belongs into "
                    "a dataset or into the code",
                )
            ]
        )


def parse_spec(
    document: Mapping[str, Any], *, cores: int, memory_mib: int = 0, gpus: int | None = None
) -> JobSpec:
    """The spec in ``document``.

    Args:
        cores: Cores of the machine that would run it; asking for more is a fault.
        memory_mib: Its memory; anything may be asked for where it is 0.
        gpus: Its GPUs; any number may be asked for where it is None.

    Raises:
        JobSpecInvalid: With every fault.
    """
    faults: list[Fault] = []
    faults += unknown_names("spec", document, _FIELDS)
    code = own_code.code_of(document, faults)
    recipe = "" if code is not None else text_of(document, "recipe", faults)
    hyperparameters: Hyperparameters | None = None
    data: DataSettings | None = None
    evaluation = settings_of(document, "evaluation", EvaluationSettings, faults)
    requirements = own_code.requirements_of(document, code, faults)
    if code is not None:
        hyperparameters, data = own_code.own_settings(document, code, faults)
        if evaluation is not None:
            faults += own_code.evaluation_faults(code, evaluation)
        if document.get("warm_start"):
            faults.append(Fault("spec.warm_start", "is for recipes: own code loads its weights"))
    elif recipe:
        found = RECIPES.get(recipe)
        if found is None:
            faults.append(
                Fault("spec.recipe", f"unknown recipe '{recipe}'{known_names(recipe, RECIPES)}")
            )
        else:
            hyperparameters = settings_of(
                document, "hyperparameters", found.hyperparameters, faults
            )
            data = settings_of(document, "data", found.data.settings, faults)
            if hyperparameters is not None and data is not None:
                faults += found.conflicts(hyperparameters, data)
            if evaluation is not None:
                faults += evaluation_conflicts(evaluation, found.data)
    dataset = text_of(document, "dataset", faults)
    if dataset and not DATASET_VERSION.fullmatch(dataset):
        faults.append(
            Fault(
                "spec.dataset",
                f"'{dataset}' is not a dataset version; expected "
                "datasets/<dataset>/versions/<n> or .../versions/latest",
            )
        )
    model = text_of(document, "model", faults)
    if model and not _MODEL.fullmatch(model):
        faults.append(
            Fault(
                "spec.model",
                f"'{model}' is not a model name; expected models/<model>, the id in lower-case "
                "letters, digits and '-', beginning with a letter",
            )
        )
    seed = integer_of(document, "seed", "spec.seed", _SEED_MAX, faults)
    there = {"cpus": cores, "memory_mib": memory_mib or None, "gpus": gpus}
    resources = _resources(mapping_of(document, "resources", faults), there, faults)
    labels = _labels(mapping_of(document, "labels", faults), faults)
    priority = _priority(document, faults)
    retry = _retry(mapping_of(document, "retry", faults), faults)
    warm_start = parse_warm_start(document.get("warm_start"), faults)
    deterministic = document.get("deterministic") or False
    if not isinstance(deterministic, bool):
        faults.append(Fault("spec.deterministic", f"expected true or false, got {deterministic!r}"))
    # Where nothing says which values there may be, only this looks at them.
    told = {fault.path for fault in faults}
    wrong = (fault for fault in not_finite("spec", document) if fault.path not in told)
    faults += islice(wrong, FAULTS_MAX)
    if faults or hyperparameters is None or data is None or evaluation is None:
        raise JobSpecInvalid(faults)
    return JobSpec(
        recipe,
        dataset,
        model,
        hyperparameters,
        data,
        seed=seed,
        resources=resources,
        labels=labels,
        priority=priority,
        retry=retry,
        deterministic=bool(deterministic),
        evaluation=evaluation,
        warm_start=warm_start,
        code=code,
        requirements=requirements,
    )


def _resources(
    values: Mapping[str, Any], there: Mapping[str, int | None], faults: list[Fault]
) -> Resources:
    """``there``: what the machine has of each, None where that is not known."""
    limits = {
        "cpus": 1 << 20,
        "memory_mib": 1 << 30,
        "timeout_seconds": 7 * 24 * 3600,
        "gpus": 1024,
    }
    faults += unknown_names("spec.resources", values, limits)
    numbers = {
        name: integer_of(values, name, f"spec.resources.{name}", maximum, faults)
        for name, maximum in limits.items()
    }
    units = {"cpus": "cores", "memory_mib": "MiB of memory", "gpus": "GPUs"}
    for name, unit in units.items():
        most = there[name]
        if most is not None and numbers[name] > most:
            faults.append(
                Fault(
                    f"spec.resources.{name}",
                    f"asks for {numbers[name]} {unit}, and the machine has {most}: such a job "
                    f"could never start; ask for {most} at most",
                )
            )
    return Resources(**numbers)


def _priority(document: Mapping[str, Any], faults: list[Fault]) -> str:
    value = document.get("priority") or Priority.NORMAL.name
    if value not in Priority.__members__:
        faults.append(
            Fault("spec.priority", f"expected {', '.join(Priority.__members__)}, got {value!r}")
        )
        return Priority.NORMAL.name
    return str(value)


def _retry(values: Mapping[str, Any], faults: list[Fault]) -> Retry:
    names = ("initial_backoff_seconds", "max_backoff_seconds")
    faults += unknown_names("spec.retry", values, ("max_attempts", *names))
    attempts = integer_of(values, "max_attempts", "spec.retry.max_attempts", _ATTEMPTS_MAX, faults)
    seconds = []
    for name in names:
        value = values.get(name) or 0
        if isinstance(value, bool) or not isinstance(value, int | float):
            faults.append(Fault(f"spec.retry.{name}", f"expected a number, got {value!r}"))
            value = 0
        elif not 0 <= value <= _BACKOFF_MAX_SECONDS:
            faults.append(
                Fault(
                    f"spec.retry.{name}",
                    f"{value:g} is not between 0 and {_BACKOFF_MAX_SECONDS:.0f} seconds",
                )
            )
        seconds.append(value)
    initial = seconds[0] or _FIRST_BACKOFF_SECONDS
    longest = seconds[1] or max(initial, _LONGEST_BACKOFF_SECONDS)
    if not faults and longest < initial:
        faults.append(
            Fault(
                "spec.retry.max_backoff_seconds",
                f"{longest:g} is less than initial_backoff_seconds, {initial:g}",
            )
        )
    return Retry(attempts, initial, longest)


def _labels(values: Mapping[str, Any], faults: list[Fault]) -> dict[str, str]:
    if len(values) > _LABELS_MAX:
        faults.append(Fault("spec.labels", f"{len(values)} labels; at most {_LABELS_MAX}"))
        return {}
    for name, value in values.items():
        path = f"spec.labels.{str(name)[:_LABEL_MAX]}"
        if not 0 < len(str(name)) <= _LABEL_MAX:
            faults.append(Fault(path, f"names of labels have 1 to {_LABEL_MAX} characters"))
        if not isinstance(value, str):
            faults.append(Fault(path, "expected text"))
        elif len(value) > _LABEL_VALUE_MAX:
            faults.append(Fault(path, f"has more than {_LABEL_VALUE_MAX} characters"))
    return {str(name): str(value) for name, value in values.items()}


def _fields(faults: Iterable[Fault]) -> str:
    paths = list(dict.fromkeys(fault.path for fault in faults))
    while len(joined := ",".join(paths)) > METADATA_CHARACTERS:
        paths.pop()
    return joined
