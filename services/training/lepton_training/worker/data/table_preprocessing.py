"""The graph that prepares rows of tables for a network, fitted on training rows only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_training.recipes.data import TableSettings, TableShape
from lepton_training.worker.preprocessing import Graph, scale_of, stand_in

_UNKNOWN, _MISSING = 0, 1
"""Codes of categories."""


def fit(
    raw: Mapping[str, npt.NDArray[Any]], settings: TableSettings, numbers: list[str], outputs: int
) -> tuple[bytes, TableShape, tuple[tuple[str, ...], ...], dict[str, Any]]:
    """The graph, what the network is told, the columns of its inputs, and what was fitted.

    Args:
        raw: Clean training rows, ``[N, 1]`` by column: FP32 with NaN where missing, or texts.
        settings: How missing values, scales and categories are dealt with.
        numbers: Those of the columns that are numbers.
        outputs: How many values the network gives.
    """
    graph = Graph()
    names = {
        name: graph.input(name, "FP32" if name in numbers else "BYTES", ["batch", 1])
        for name in raw
    }
    categories = [name for name in raw if name not in numbers]
    fitted: dict[str, Any] = {"numbers": {}, "categories": {}}
    sources: list[tuple[str, ...]] = []
    if numbers:
        matrix = np.concatenate([raw[name] for name in numbers], axis=1).astype(np.float64)
        joined = graph.add("Concat", *(names[name] for name in numbers), axis=1)
        scaled, features = _numbers(
            graph,
            joined,
            matrix=matrix,
            settings=settings,
            names=numbers,
            fitted=fitted["numbers"],
        )
        sources.append(tuple(features))
        graph.output(scaled, "numbers", "FP32", ["batch", len(features)])
    sizes = []
    if categories:
        codes = []
        for name in categories:
            coded, size = _category(graph, names[name], raw[name], settings)
            codes.append(coded)
            sizes.append(size)
            fitted["categories"][name] = size
        graph.output(
            graph.add("Concat", *codes, axis=1), "categories", "INT64", ["batch", len(codes)]
        )
        sources.append(tuple(categories))
    width = len(sources[0]) if numbers else 0
    return graph.build(), TableShape(width, tuple(sizes), outputs), tuple(sources), fitted


def _numbers(
    graph: Graph,
    joined: str,
    *,
    matrix: npt.NDArray[np.float64],
    settings: TableSettings,
    names: list[str],
    fitted: dict[str, Any],
) -> tuple[str, list[str]]:
    """Imputed and scaled numbers ``[N, features]``, and which were missing; the column of each."""
    absent = np.isnan(matrix)
    fill = np.array(
        [
            stand_in(c[~a], settings.impute, settings.impute_value)
            for c, a in zip(matrix.T, absent.T, strict=True)
        ]
    )
    filled = np.where(absent, fill, matrix)
    missing = graph.add("IsNaN", joined)
    whole = graph.add("Where", missing, graph.constant(fill, np.float32), joined)
    for name, value, column in zip(names, fill, filled.T, strict=True):
        fitted[name] = {
            "imputed": float(value),
            "mean": float(column.mean()),
            "minimum": float(column.min()),
            "maximum": float(column.max()),
        }
    if settings.scaling == "quantile":
        whole, columns = _between_quantiles(graph, whole, filled, settings.bins)
        features = [names[column] for column in columns]
    else:
        features = list(names)
        shift, width = scale_of(filled, settings.scaling)
        whole = graph.add(
            "Div",
            graph.add("Sub", whole, graph.constant(shift, np.float32)),
            graph.constant(width, np.float32),
        )
    some = np.flatnonzero(absent.any(axis=0))
    if len(some):
        which = graph.add("Gather", missing, graph.constant(some, np.int64), axis=1)
        whole = graph.add("Concat", whole, graph.add("Cast", which, to=1), axis=1)
    return whole, features + [names[column] for column in some]


def _between_quantiles(
    graph: Graph, whole: str, filled: npt.NDArray[np.float64], bins: int
) -> tuple[str, list[int]]:
    """For each piece between two quantiles how much of it lies below the value, 0 to 1; and which
    column the piece is of."""
    columns, lower, width = [], [], []
    for column, values in enumerate(filled.T):
        edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)).astype(np.float32))
        if len(edges) == 1:
            edges = np.array([edges[0], edges[0] + 1], np.float32)
        columns += [column] * (len(edges) - 1)
        lower += list(edges[:-1])
        width += list(np.diff(edges))
    spread = graph.add("Gather", whole, graph.constant(columns, np.int64), axis=1)
    above = graph.add("Sub", spread, graph.constant(lower, np.float32))
    share = graph.add("Div", above, graph.constant(width, np.float32))
    zero, one = graph.constant(0, np.float32), graph.constant(1, np.float32)
    return graph.add("Clip", share, zero, one), columns


def _category(
    graph: Graph, tensor: str, values: npt.NDArray[Any], settings: TableSettings
) -> tuple[str, int]:
    """Codes of a column, and how many there are.

    Spaces around a category count for nothing where training had it so: ONNX cannot strip.
    """
    spellings = values[:, 0]
    counts = Counter(text.strip() for text in spellings)
    blank = set(settings.missing)
    known = sorted(
        text for text, count in counts.items() if count >= settings.min_count and text not in blank
    )
    codes = {text: code for code, text in enumerate(known, start=_MISSING + 1)}
    missing = _MISSING
    if settings.impute_category == "most_frequent" and known:
        missing = codes[max(known, key=lambda text: counts[text])]
    codes |= dict.fromkeys(settings.missing, missing)
    keys = codes | {text: codes[text.strip()] for text in set(spellings) if text.strip() in codes}
    coded = graph.add(
        "LabelEncoder",
        tensor,
        domain="ai.onnx.ml",
        keys_strings=list(keys),
        values_int64s=list(keys.values()),
        default_int64=_UNKNOWN,
    )
    return coded, len(known) + _MISSING + 1
