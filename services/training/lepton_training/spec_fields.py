"""Reads the parts of a job's spec: what is not as it must be is added to a list of faults."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

from lepton_mesh.resources import ID_PATTERN
from lepton_training.recipes.hyperparameters import (
    FAULTS_MAX,
    Fault,
    Settings,
    parse_settings,
)

S = TypeVar("S", bound=Settings)

DATASET_VERSION = re.compile(rf"datasets/{ID_PATTERN}/versions/([1-9][0-9]{{0,17}}|latest)")


def unknown_names(path: str, given: Iterable[str], known: Iterable[str]) -> list[Fault]:
    """A fault for each name that is not known, saying which are; of the first few alone."""
    names = tuple(known)
    unknown = islice((name for name in given if name not in names), FAULTS_MAX)
    return [Fault(f"{path}.{name}", f"unknown field{known_names(name, names)}") for name in unknown]


def not_finite(path: str, value: Any) -> Iterator[Fault]:
    """A fault for each number in ``value`` that is NaN or infinite: JSON cannot hold it."""
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from not_finite(f"{path}.{name}", one)
    elif isinstance(value, list | tuple):
        for index, one in enumerate(value):
            yield from not_finite(f"{path}.{index}", one)
    elif isinstance(value, float) and not math.isfinite(value):
        yield Fault(path, f"must be a finite number, got {value}")


def known_names(name: str, known: Iterable[str]) -> str:
    """The name that may have been meant, or else all that are known; follows a message."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    # Not both: with several faults the message would be cut before its end.
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(names)}"


def settings_of(
    document: Mapping[str, Any], name: str, declared: type[S], faults: list[Fault]
) -> S | None:
    """The settings in a part of the spec, or None where they have faults."""
    settings, wrong = parse_settings(
        declared, mapping_of(document, name, faults), path=f"spec.{name}"
    )
    faults += wrong
    return settings


def text_of(document: Mapping[str, Any], name: str, faults: list[Fault]) -> str:
    """A text that must be given."""
    value = document.get(name)
    if value is None or value == "":
        faults.append(Fault(f"spec.{name}", "must be given"))
        return ""
    if not isinstance(value, str):
        faults.append(Fault(f"spec.{name}", f"expected text, got {type(value).__name__}"))
        return ""
    return value


def mapping_of(document: Mapping[str, Any], name: str, faults: list[Fault]) -> Mapping[str, Any]:
    """A part of the spec; empty where it is not given."""
    value = document.get(name)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        faults.append(Fault(f"spec.{name}", f"expected a mapping, got {type(value).__name__}"))
        return {}
    return value


def integer_of(
    document: Mapping[str, Any], name: str, path: str, maximum: int, faults: list[Fault]
) -> int:
    """A whole number from 0 to ``maximum``; 0 where it is not given."""
    value = document.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int):
        faults.append(Fault(path, f"expected a whole number, got {value!r}"))
        return 0
    if not 0 <= value <= maximum:
        faults.append(Fault(path, f"{value} is not between 0 and {maximum}"))
        return 0
    return value
