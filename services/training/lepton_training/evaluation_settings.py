"""How a trained model is to be evaluated: ``spec.evaluation``, checked before a job runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pydantic import Field

from lepton_training.recipes.data import IMAGE_GENERATION, SERIES, TABLE, DataKind
from lepton_training.recipes.hyperparameters import Fault, Settings

_SLICES_MAX = 20
_BINS_MAX = 50


@dataclass(frozen=True, slots=True)
class SliceColumn:
    """A column by whose values the test split is cut."""

    column: str
    edges: tuple[float, ...] = ()
    """Of numbers: a slice begins at each, and one ends at the first; empty takes each value."""


class EvaluationSettings(Settings):
    """What is measured beside the figures that every model has."""

    slices: list[Any] = Field(
        [],
        max_length=_SLICES_MAX,
        description="Columns by whose values the test rows are cut, each slice with figures of its "
        "own: a name, or {column: age, bins: [30, 50]} for numbers. Of tables only; also columns "
        "in data.drop.",
    )
    small_slice: int = Field(
        30, ge=1, description="A slice with fewer rows is marked as small; with slices only."
    )
    resamples: int = Field(
        1000,
        ge=0,
        le=10_000,
        description="Samples of the bootstrap that gives the intervals; 0 gives none.",
    )
    confidence: float = Field(
        0.95, ge=0.5, le=0.999, description="Share of the samples that an interval holds."
    )
    importance_repeats: int = Field(
        5,
        ge=0,
        le=100,
        description="How often each column is shuffled to see what the model owes to it; 0 leaves "
        "that out. Of tables and series only.",
    )
    explanations: int = Field(
        8,
        ge=0,
        le=50,
        description="Test rows whose predictions are explained by integrated gradients: half of "
        "them those that the model is most wrong about, the others by chance; 0 leaves that out. "
        "Of all but generated images.",
    )

    def conflicts(self) -> Iterator[Fault]:
        yield from (fault for entry in self._entries() for fault in entry[1])
        columns = [entry[0].column for entry in self._entries() if entry[0]]
        for index, column in enumerate(columns):
            if column in columns[:index]:
                yield Fault(f"slices[{index}]", f"'{column}' is there already")
        default = type(self).model_fields
        if not self.slices and self.small_slice != default["small_slice"].default:
            yield Fault("small_slice", "has no effect without slices")
        if not self.resamples and self.confidence != default["confidence"].default:
            yield Fault("confidence", "has no effect without resamples")

    @property
    def columns(self) -> tuple[SliceColumn, ...]:
        """``slices`` as columns, in order; settings without faults."""
        return tuple(column for column, _ in self._entries() if column)

    def _entries(self) -> Iterator[tuple[SliceColumn | None, list[Fault]]]:
        for index, entry in enumerate(self.slices):
            yield _slice_column(entry, f"slices[{index}]")


def evaluation_conflicts(evaluation: EvaluationSettings, kind: DataKind) -> Iterator[Fault]:
    """Settings that have no effect on that kind of data; whole paths."""
    if evaluation.slices and kind is not TABLE:
        yield Fault(
            "spec.evaluation.slices", f"only tables have columns to cut by; this reads {kind.id}"
        )
    default = EvaluationSettings.model_fields["importance_repeats"].default
    if evaluation.importance_repeats not in (0, default) and kind not in (TABLE, SERIES):
        yield Fault(
            "spec.evaluation.importance_repeats",
            f"has no effect: only tables and series have columns; this reads {kind.id}",
        )
    default = EvaluationSettings.model_fields["explanations"].default
    if evaluation.explanations not in (0, default) and kind is IMAGE_GENERATION:
        yield Fault("spec.evaluation.explanations", "has no effect: nothing is predicted")


def _slice_column(entry: Any, path: str) -> tuple[SliceColumn | None, list[Fault]]:
    if isinstance(entry, str) and entry:
        return SliceColumn(entry), []
    if not isinstance(entry, Mapping):
        return None, [Fault(path, "expected a column, or {column: age, bins: [30, 50]}")]
    faults = [
        Fault(f"{path}.{name}", "unknown field; known: bins, column")
        for name in entry
        if name not in ("column", "bins")
    ]
    column, bins = entry.get("column"), entry.get("bins", [])
    if not isinstance(column, str) or not column:
        faults.append(Fault(f"{path}.column", "expected the name of a column"))
    if not isinstance(bins, list) or not all(_is_number(edge) for edge in bins):
        faults.append(Fault(f"{path}.bins", "expected numbers, such as [30, 50]"))
    elif len(bins) > _BINS_MAX:
        faults.append(Fault(f"{path}.bins", f"has {len(bins)} edges; at most {_BINS_MAX}"))
    elif any(low >= high for low, high in pairwise(bins)):
        faults.append(Fault(f"{path}.bins", "must rise"))
    if faults:
        return None, faults
    return SliceColumn(str(column), tuple(float(edge) for edge in bins)), []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
