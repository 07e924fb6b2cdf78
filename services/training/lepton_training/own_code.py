"""A user's own code in a job's spec: where it lies, where it begins, and what it is given.

Two forms, told apart by which field names the function: ``entry_point`` is a function that
trains, and its hyperparameters are its own; ``module`` makes a network that the platform trains
as it trains a recipe's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ConfigDict

from lepton_mesh.resources import InvalidName, parse_name
from lepton_training.evaluation_settings import EvaluationSettings, evaluation_conflicts
from lepton_training.recipes import data as kinds
from lepton_training.recipes import tabular
from lepton_training.recipes.augmentation import ImageHyperparameters
from lepton_training.recipes.fitting import (
    FitHyperparameters,
    RegressionHyperparameters,
    SupervisedHyperparameters,
)
from lepton_training.recipes.hyperparameters import DataSettings, Fault, Hyperparameters
from lepton_training.requirements import requirement_faults
from lepton_training.spec_fields import mapping_of, settings_of, unknown_names

_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_TEXTS = ("artifact", "entry_point", "module", "data_kind", "sha256")
FIELDS = (*_TEXTS, "arguments", "processes")
"""Of a spec's `code`."""

_PROCESSES, _PROCESSES_MAX = 64, 4096
MEDIA_TYPE = "application/zip"
ARCHIVE_MAX = 64 << 20
"""Bytes of the archive."""


class FreeHyperparameters(Hyperparameters):
    """Those of code that trains by itself: any names, any values that JSON has."""

    model_config = ConfigDict(frozen=True, extra="allow")


@dataclass(frozen=True, slots=True)
class Taught:
    """How the platform trains a module on one kind of data."""

    kind: kinds.DataKind
    hyperparameters: type[FitHyperparameters]
    conflicts: Callable[[Any, Any], Iterable[Fault]] = lambda _hyperparameters, _data: ()
    """As of a recipe."""


KINDS: Mapping[str, Taught] = {
    one.kind.id: one
    for one in (
        Taught(kinds.IMAGES, ImageHyperparameters),
        Taught(kinds.IMAGE_ANOMALIES, FitHyperparameters),
        Taught(kinds.TABLE, tabular.TableHyperparameters, tabular.conflicts),
        Taught(kinds.TEXT, SupervisedHyperparameters),
        Taught(kinds.SERIES, RegressionHyperparameters),
    )
}
"""Kinds of data that own code may ask for, by id. Generated images are not among them: their loss
is a second network."""


@dataclass(frozen=True, slots=True)
class Code:
    """A user's own code, without faults."""

    artifact: str
    """``artifacts/{artifact}``: a zip archive."""
    entry_point: str = ""
    """``package.module:function`` that trains; empty where ``module`` is given."""
    module: str = ""
    """``package.module:function`` that makes a network."""
    data_kind: str = ""
    """Of :data:`KINDS`; empty where the code reads the files itself."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of the ``module`` function."""
    sha256: str = ""
    """Of the archive; known once storage was asked."""
    processes: int = _PROCESSES
    """How many it may have at a time, itself included."""

    @property
    def function(self) -> str:
        """Where it begins, in either form."""
        return self.entry_point or self.module

    def to_dict(self) -> dict[str, Any]:
        """Plain data that :func:`parse_code` reads back."""
        return {
            "artifact": self.artifact,
            "entry_point": self.entry_point,
            "module": self.module,
            "data_kind": self.data_kind,
            "arguments": dict(self.arguments),
            "sha256": self.sha256,
            "processes": self.processes,
        }


def parse_code(values: Mapping[str, Any], faults: list[Fault]) -> Code:
    """The code in a spec's ``code``; what is wrong with it is added to ``faults``."""
    text: dict[str, str] = {}
    for name in _TEXTS:
        value = values.get(name) or ""
        if not isinstance(value, str):
            faults.append(Fault(f"spec.code.{name}", f"expected text, got {value!r}"))
            value = ""
        text[name] = value
    if not text["artifact"]:
        faults.append(
            Fault(
                "spec.code.artifact", "must be given; `lepton job create` makes it of a directory"
            )
        )
    else:
        try:
            parse_name("artifacts/{artifact}", text["artifact"])
        except InvalidName as error:
            faults.append(Fault("spec.code.artifact", error.message))
    faults += _function_faults(text["entry_point"], text["module"])
    faults += _kind_faults(text["data_kind"], needed=bool(text["module"]))
    arguments = values.get("arguments") or {}
    if not isinstance(arguments, Mapping):
        faults.append(Fault("spec.code.arguments", "expected a mapping"))
        arguments = {}
    if arguments and text["entry_point"]:
        faults.append(
            Fault("spec.code.arguments", "are of module only; use spec.hyperparameters instead")
        )
    for name in arguments:
        if not str(name).isidentifier():
            faults.append(Fault(f"spec.code.arguments.{name}", "is no name of a Python argument"))
    processes = values.get("processes") or _PROCESSES
    if isinstance(processes, bool) or not isinstance(processes, int):
        faults.append(Fault("spec.code.processes", f"expected a whole number, got {processes!r}"))
        processes = _PROCESSES
    elif not 0 < processes <= _PROCESSES_MAX:
        faults.append(
            Fault("spec.code.processes", f"{processes} is not between 1 and {_PROCESSES_MAX}")
        )
    return Code(arguments=whole_numbers(arguments), processes=processes, **text)


def whole_numbers(value: Any) -> Any:
    """JSON's numbers as Python means them: a whole one is an int, whichever way it was sent."""
    if isinstance(value, Mapping):
        return {str(name): whole_numbers(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [whole_numbers(one) for one in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _function_faults(entry_point: str, module: str) -> Iterable[Fault]:
    if bool(entry_point) == bool(module):
        yield Fault(
            "spec.code",
            "needs either entry_point (a function that trains) or module (one that makes a "
            "torch.nn.Module), written package.module:function",
        )
    for name, value in (("entry_point", entry_point), ("module", module)):
        if value and not _FUNCTION.fullmatch(value):
            yield Fault(f"spec.code.{name}", f"'{value}' is not written package.module:function")


def _kind_faults(data_kind: str, *, needed: bool) -> Iterable[Fault]:
    known = ", ".join(KINDS)
    if data_kind and data_kind not in KINDS:
        yield Fault("spec.code.data_kind", f"'{data_kind}' is not one of {known}")
    elif needed and not data_kind:
        yield Fault("spec.code.data_kind", f"must be given with module; one of {known}")


def data_faults(code: Code, settings: DataSettings) -> Iterable[Fault]:
    """Settings of the data that are for the platform's own networks."""
    if not isinstance(settings, kinds.ImageSettings) or not code.entry_point:
        return
    for name in ("scaling", "features"):
        if getattr(settings, name) != kinds.ImageSettings.model_fields[name].get_default():
            yield Fault(
                f"spec.data.{name}",
                "has no effect with entry_point: the module takes pixels in [0, 1]; do it in the "
                "module, or use code.module",
            )


def evaluation_faults(code: Code, evaluation: EvaluationSettings) -> Iterator[Fault]:
    """Settings of the evaluation that have no effect on own code; whole paths."""
    fields = EvaluationSettings.model_fields
    for name in fields:
        value, default = getattr(evaluation, name), fields[name].get_default()
        if value == default:
            continue
        if not code.data_kind:
            yield Fault(f"spec.evaluation.{name}", "has no effect without code.data_kind")
        elif name in ("importance_repeats", "explanations") and value:
            yield Fault(
                f"spec.evaluation.{name}",
                "has no effect with code: a model of one's own is measured by its graph, which "
                "gives no gradients; leave it out",
            )
        elif name == "slices" and code.data_kind != kinds.TABLE.id:
            yield from evaluation_conflicts(evaluation, KINDS[code.data_kind].kind)


def code_of(document: Mapping[str, Any], faults: list[Fault]) -> Code | None:
    """The user's own code, where the spec has any."""
    if document.get("code") is None:
        return None
    values = mapping_of(document, "code", faults)
    faults += unknown_names("spec.code", values, FIELDS)
    if document.get("recipe"):
        faults.append(Fault("spec.recipe", "cannot be given with code; leave one of them out"))
    return parse_code(values, faults)


def requirements_of(document: Mapping[str, Any], code: Code | None, faults: list[Fault]) -> str:
    values = mapping_of(document, "python", faults)
    faults += unknown_names("spec.python", values, ("requirements",))
    requirements = values.get("requirements") or ""
    if not isinstance(requirements, str):
        faults.append(Fault("spec.python.requirements", "expected the text of the file"))
        return ""
    if requirements and code is None:
        faults.append(Fault("spec.python", "is for code only; a recipe brings what it needs"))
    faults += requirement_faults(requirements)
    return requirements


def own_settings(
    document: Mapping[str, Any], code: Code, faults: list[Fault]
) -> tuple[Hyperparameters | None, DataSettings | None]:
    """What can be set for own code: by its kind of data, and by who trains."""
    taught = KINDS.get(code.data_kind)
    data: DataSettings | None = None
    if taught is not None:
        data = settings_of(document, "data", taught.kind.settings, faults)
        faults += data_faults(code, data) if data is not None else ()
    elif not code.data_kind:
        data = DataSettings()
        if mapping_of(document, "data", faults):
            faults.append(Fault("spec.data", "has no effect without code.data_kind"))
    hyperparameters: Hyperparameters | None = None
    if not code.module:
        values = whole_numbers(mapping_of(document, "hyperparameters", faults))
        hyperparameters = FreeHyperparameters(**values)
    elif taught is not None:
        hyperparameters = settings_of(document, "hyperparameters", taught.hyperparameters, faults)
        if hyperparameters is not None and data is not None:
            faults += taught.conflicts(hyperparameters, data)
    return hyperparameters, data
