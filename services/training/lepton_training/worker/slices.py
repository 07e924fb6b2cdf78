"""Parts of a test split by the values of a column: where a model is worse than on the whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_training.evaluation_settings import SliceColumn
from lepton_training.recipes.hyperparameters import Fault
from lepton_training.spec import JobSpecInvalid

_VALUES_MAX = 50
"""Of a column without bins; rarer ones are one slice."""
OTHERS, MISSING, NO_NUMBER = "(others)", "(missing)", "(not a number)"

Texts = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows of the test split that are alike in one column."""

    column: str
    value: str
    """A value, or of numbers a range such as ``[30, 50)``."""
    rows: npt.NDArray[np.int64]
    """Their places in the test split; at least one."""


def cut(
    columns: Mapping[str, Texts], wanted: Sequence[SliceColumn], missing: Sequence[str]
) -> tuple[Slice, ...]:
    """The slices of a test split, each column's rows all in one of them.

    Args:
        columns: The test split as text, by column.
        wanted: What to cut by.
        missing: What a field says that has no value.

    Raises:
        JobSpecInvalid: There is no such column, or it cannot be cut so.
    """
    faults: list[Fault] = []
    slices: list[Slice] = []
    for index, column in enumerate(wanted):
        path = f"spec.evaluation.slices[{index}]"
        if column.column not in columns:
            known = ", ".join(columns)
            faults.append(Fault(path, f"there is no column '{column.column}'; known: {known}"))
            continue
        texts = np.array([text.strip() for text in columns[column.column]], object)
        blank = np.isin(texts, list(missing))
        if column.edges:
            named, fault = _by_range(texts, blank, column)
        else:
            named, fault = _by_value(texts, blank, column)
        if fault:
            faults.append(Fault(path, fault))
        slices += [Slice(column.column, value, np.flatnonzero(rows)) for value, rows in named]
    if faults:
        raise JobSpecInvalid(faults)
    return tuple(found for found in slices if len(found.rows))


def _by_value(
    texts: Texts, blank: npt.NDArray[Any], column: SliceColumn
) -> tuple[list[tuple[str, npt.NDArray[Any]]], str]:
    counts = Counter(texts[~blank])
    if len(counts) > _VALUES_MAX and not any(_number(text) is None for text in counts):
        return [], (
            f"column '{column.column}' has {len(counts)} different numbers in the test split; "
            f"give bins, such as {{column: {column.column}, bins: [...]}}"
        )
    common = [value for value, _ in counts.most_common(_VALUES_MAX)]
    named = [(value, (texts == value) & ~blank) for value in sorted(common)]
    named.append((OTHERS, ~np.isin(texts, common) & ~blank))
    named.append((MISSING, blank))
    return named, ""


def _by_range(
    texts: Texts, blank: npt.NDArray[Any], column: SliceColumn
) -> tuple[list[tuple[str, npt.NDArray[Any]]], str]:
    parsed = [_number(text) for text in texts]
    numbers = np.array([np.nan if value is None else value for value in parsed])
    known = ~np.isnan(numbers) & ~blank
    if not known.any():
        return [], f"column '{column.column}' has no numbers in the test split; leave out its bins"
    place = np.searchsorted(np.array(column.edges), numbers, side="right")
    edges = [f"{edge:g}" for edge in column.edges]
    names = [
        f"< {edges[0]}",
        *(f"[{low}, {high})" for low, high in pairwise(edges)),
        f">= {edges[-1]}",
    ]
    named = [(name, (place == index) & known) for index, name in enumerate(names)]
    named.append((NO_NUMBER, ~known & ~blank))
    named.append((MISSING, blank))
    return named, ""


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
