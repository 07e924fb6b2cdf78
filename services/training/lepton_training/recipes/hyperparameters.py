"""Typed settings: declared once, checked before a job runs, listed to users.

A recipe declares a subclass of :class:`Hyperparameters`, and its kind of data one of
:class:`DataSettings`; every field has a type, a default, bounds and a description.
Nothing here imports PyTorch.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

FAULTS_MAX = 32
"""How many unknown or wrong names of one part of a spec are told: the first."""


class Fault(NamedTuple):
    """One thing wrong in a spec."""

    path: str
    """Such as ``spec.hyperparameters.epochs``."""
    message: str


class Settings(BaseModel):
    """Values that a part of a spec lets users set."""

    # Strict: "5" is not 5, and true is not 1.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    noun: ClassVar[str] = "setting"
    """What users call one of them."""

    def conflicts(self) -> Iterator[Fault]:
        """Values that are right each for itself and wrong together; paths are field names."""
        return iter(())


class Hyperparameters(Settings):
    """What a recipe lets users set."""

    noun: ClassVar[str] = "hyperparameter"


class DataSettings(Settings):
    """How a recipe reads the files of a dataset version."""


class Described(NamedTuple):
    """One setting, as users read of it."""

    name: str
    type: str
    """``int``, ``float``, ``bool``, ``string`` or ``list``."""
    default_json: str
    """Empty where a value must be given."""
    description: str


S = TypeVar("S", bound=Settings)


def describe(declared: type[Settings]) -> tuple[Described, ...]:
    """The fields of ``declared`` in order, with their bounds in the description."""
    properties = declared.model_json_schema().get("properties", {})
    names = {
        "integer": "int",
        "number": "float",
        "boolean": "bool",
        "string": "string",
        "array": "list",
    }
    return tuple(
        Described(
            name=name,
            type=names[schema["type"]],
            default_json=json.dumps(schema["default"]) if "default" in schema else "",
            description=(schema["description"] + _bounds(schema)).strip(),
        )
        for name, schema in properties.items()
    )


def parse_settings(
    declared: type[S], values: Mapping[str, Any], *, path: str
) -> tuple[S | None, list[Fault]]:
    """The settings in ``values`` with defaults filled in, or None and every fault."""
    fields = declared.model_fields
    given = {
        name: _whole(value, fields[name].annotation) if name in fields else value
        for name, value in values.items()
    }
    faults: list[Fault] = []
    try:
        settings = declared(**given)
    except ValidationError as error:
        faults = [_fault(detail, declared, path) for detail in error.errors()[:FAULTS_MAX]]
        wrong = {str(detail["loc"][0]) for detail in error.errors()}
        try:  # what is right each for itself may still be wrong together
            settings = declared(**{name: v for name, v in given.items() if name not in wrong})
        except ValidationError:
            return None, faults
        conflicts = [fault for fault in settings.conflicts() if fault.path not in wrong]
    else:
        conflicts = list(settings.conflicts())
    faults += [Fault(f"{path}.{fault.path}", fault.message) for fault in conflicts]
    return (None if faults else settings), faults


def _whole(value: Any, annotation: Any) -> Any:
    """Numbers of a protobuf Struct are all doubles: whole ones where whole ones are due."""
    if isinstance(value, list) and annotation == list[int]:
        return [_whole(item, int) for item in value]
    if annotation is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _fault(detail: Any, declared: type[Settings], path: str) -> Fault:
    name = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = sorted(declared.model_fields)
        near = difflib.get_close_matches(name, known, n=1)
        # Not both: with several faults the message would be cut before its end.
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known) or 'none'}"
        message = f"unknown {declared.noun}; {hint}"
    elif detail["type"] == "missing":
        message = "must be given"
    else:
        text = str(detail["msg"])
        message = f"{text[0].lower()}{text[1:]}, got {detail['input']!r}"
    return Fault(f"{path}.{name}", message)


def _bounds(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return f" One of: {', '.join(map(str, schema['enum']))}."
    signs = {
        "exclusiveMinimum": "above",
        "minimum": "at least",
        "exclusiveMaximum": "below",
        "maximum": "at most",
    }
    parts = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    return f" {', '.join(parts).capitalize()}." if parts else ""
