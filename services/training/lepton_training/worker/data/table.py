"""Rows of tables: read, cleaned, and prepared by a graph that is fitted on training rows only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from onnx import TensorProto

from lepton_training.recipes.data import TableSettings, TableShape
from lepton_training.spec import JobSpec
from lepton_training.worker.data.cleaning import UNKNOWN, settle
from lepton_training.worker.data.examples import ArrayExamples, held_out
from lepton_training.worker.data.files import (
    Table,
    Texts,
    parse_numbers,
    read_tables,
    split_files,
)
from lepton_training.worker.data.fitted import Fitted
from lepton_training.worker.data.identity import digest_of_texts
from lepton_training.worker.data.idx import DatasetInvalid
from lepton_training.worker.data.problem import PARITY_ROWS, Problem
from lepton_training.worker.objectives import (
    Classification,
    Objective,
    Regression,
    class_weights,
)
from lepton_training.worker.platform import TensorSpec
from lepton_training.worker.preprocessing import Graph, Preprocessor, scale_of, stand_in
from lepton_training.worker.slices import cut

_CLASSES_MAX = 10_000
_UNKNOWN, _MISSING = 0, 1
"""Codes of categories."""


@dataclass
class _Split:
    """Clean rows: raw values by column, and what is to be predicted."""

    raw: dict[str, npt.NDArray[Any]]
    targets: npt.NDArray[Any]

    def take(self, rows: npt.NDArray[np.int64]) -> _Split:
        return _Split({name: v[rows] for name, v in self.raw.items()}, self.targets[rows])


def load(directory: Path, spec: JobSpec, fitted: Fitted | None = None) -> Problem:
    """The tables in ``directory``, one column of which is to be predicted.

    Raises:
        DatasetInvalid: A file is damaged, or has not the columns that the spec names.
        JobSpecInvalid: There is not a weight for each class.
        WarmStartMismatch: There is what ``fitted`` does not know.
    """
    settings, hyperparameters = cast(TableSettings, spec.data), cast(Any, spec.hyperparameters)
    train_files, test_files = split_files(directory, settings)
    table = read_tables(train_files, settings)
    if test_files:
        test_table = read_tables(test_files, settings)
    else:
        kept, out = held_out(len(table), settings.test_share, spec.seed)
        table, test_table = _divided(table, kept.numpy(), out.numpy())
    numbers = _number_columns(table, settings)
    if fitted is not None:
        numbers = _columns_of(fitted, table, settings)
    known = list(fitted.class_names) if fitted is not None and fitted.class_names else None
    if known is not None and fitted is not None and settings.task != "regression":
        fitted.require_known(_classes(table, settings))
    features = _features(table, settings)
    whole, classes = _clean(table, settings, features, numbers, known)
    test, _ = _clean(test_table, settings, features, numbers, classes)
    cleaning = settle(
        {
            "train": (len(whole.targets), table.left_out),
            "test": (len(test.targets), test_table.left_out),
        },
        max_invalid_fraction=settings.max_invalid_fraction,
    )
    slices = cut(test_table.columns, spec.evaluation.columns, settings.missing)
    kept, out = held_out(len(whole.targets), hyperparameters.validation, spec.seed)
    train = whole.take(kept.numpy())

    outputs = len(classes) or 1
    if fitted is not None and fitted.preprocessing is not None:
        told = {**fitted.shape, "categories": tuple(fitted.shape["categories"])}
        preprocessing, report = fitted.preprocessing, {"fitted_for": fitted.version}
        sources = fitted.columns
        shape = TableShape(**(told | {"outputs": outputs}))
    else:
        preprocessing, shape, sources, report = _fit(train, settings, numbers, outputs)
    preprocessor = Preprocessor(preprocessing)
    objective: Objective
    if classes:
        weights = class_weights(hyperparameters, train.targets, len(classes))
        objective = Classification(hyperparameters, weights)
        output = TensorSpec(
            "probabilities", "FP32", (-1, len(classes)), "probability of each class"
        )
    else:
        objective = (
            Regression(
                hyperparameters,
                mean=fitted.mean,
                deviation=fitted.deviation,
                training_mean=float(train.targets.mean()),
            )
            if fitted is not None
            else Regression.fitted(hyperparameters, train.targets)
        )
        output = TensorSpec("values", "FP32", (-1, 1), settings.target)

    def examples(split: _Split) -> ArrayExamples:
        arrays = preprocessor.in_pieces(split.raw)
        tensors = tuple(torch.from_numpy(array) for array in arrays)
        return ArrayExamples(tensors, torch.from_numpy(split.targets))

    validation = whole.take(out.numpy()) if len(out) else None
    parts = [f"{len(train.targets)} training"]
    if validation is not None:
        parts.append(f"{len(validation.targets)} validation")
    return Problem(
        about=f"{', '.join(parts)} and {len(test.targets)} test rows of {len(numbers)} numbers and "
        f"{len(shape.categories)} categories" + (f", {len(classes)} classes" if classes else ""),
        shape=shape,
        train=examples(train),
        validation=examples(validation) if validation else None,
        test=examples(test),
        objective=objective,
        inputs=tuple(
            TensorSpec(name, "FP32", (-1, 1), f"{name}; NaN where missing")
            if name in numbers
            else TensorSpec(name, "BYTES", (-1, 1), name)
            for name in train.raw
        ),
        outputs=(output,),
        class_names=tuple(classes),
        raw_rows={name: values[:PARITY_ROWS] for name, values in test.raw.items()},
        test_digest=digest_of_texts(test_table.columns),
        slices=slices,
        columns=sources,
        raw_test=test.raw,
        baseline={name: _typical(values) for name, values in train.raw.items()},
        preprocessing=preprocessing,
        report={"cleaning": cleaning, **report},
    )


def _columns_of(fitted: Fitted, table: Table, settings: TableSettings) -> list[str]:
    """Columns that are numbers to ``fitted``, which has the columns of ``table``."""
    assert fitted.preprocessing is not None, "tables are always prepared"  # noqa: S101 - for mypy
    inputs = Preprocessor(fitted.preprocessing).model.graph.input
    fitted.require_columns(
        [value.name for value in inputs],
        _features(table, settings),
    )
    floats = TensorProto.FLOAT
    return [value.name for value in inputs if value.type.tensor_type.elem_type == floats]


def _classes(table: Table, settings: TableSettings) -> set[str]:
    """What stands in the target's column, blanks left out."""
    strip = f" \t\r\n{settings.target_strip}"
    found = {text.strip(strip) for text in table.columns[settings.target]}
    return found - set(settings.missing)


def _divided(table: Table, kept: Any, out: Any) -> tuple[Table, Table]:
    train, test = table.take(kept), table.take(out)
    train.left_out = table.left_out
    return train, test


def _features(table: Table, settings: TableSettings) -> list[str]:
    """Columns that the target is predicted from."""
    return [name for name in table.columns if name not in (settings.target, *settings.drop)]


def _number_columns(table: Table, settings: TableSettings) -> list[str]:
    """Columns that are numbers, by the spec or by all of the training rows."""
    named = [settings.target, *settings.drop, *settings.numbers]
    for name in named:
        if name not in table.columns:
            raise DatasetInvalid(
                f"there is no column '{name}' in the training split; it has "
                f"{table.told}. Files without a line of names need data.header"
            )
    others = _features(table, settings)
    if not others:
        raise DatasetInvalid("no column is left to predict from; data.drop has them all")
    if settings.numbers:
        return [name for name in others if name in settings.numbers]

    def is_number(values: Texts) -> bool:
        parsed, wrong = parse_numbers(values, settings.missing)
        return not wrong.any() and not np.isnan(parsed).all()

    return [name for name in others if is_number(table.columns[name])]


def _clean(
    table: Table,
    settings: TableSettings,
    features: list[str],
    numbers: list[str],
    classes: list[str] | None,
) -> tuple[_Split, list[str]]:
    """The rows that can be used, of the columns ``features``, and the classes in order; those of
    ``classes`` where given."""
    missing_columns = [name for name in (settings.target, *features) if name not in table.columns]
    if missing_columns:
        raise DatasetInvalid(
            f"the test split has no column '{missing_columns[0]}', which training has; it has "
            f"{table.told}"
        )
    for name in numbers:
        table.keep(
            ~parse_numbers(table.columns[name], settings.missing)[1], f"{name}: not a number"
        )
    strip = f" \t\r\n{settings.target_strip}"
    targets = np.array([text.strip(strip) for text in table.columns[settings.target]], object)
    table.columns[settings.target] = targets
    blank = set(settings.missing)
    there = np.array([text not in blank for text in targets], bool)
    table.keep(there, f"{settings.target}: missing")
    targets = table.columns[settings.target]
    if settings.task == "regression":
        amounts, wrong = parse_numbers(targets, settings.missing)
        table.keep(~wrong, f"{settings.target}: not a number")
        result: npt.NDArray[Any] = amounts[~wrong].astype(np.float32).reshape(-1, 1)
        found: list[str] = []
    else:
        found = sorted(set(targets)) if classes is None else classes
        if classes is None and not 2 <= len(found) <= _CLASSES_MAX:
            raise DatasetInvalid(
                f"column '{settings.target}' has {len(found)} classes; training needs 2 to "
                f"{_CLASSES_MAX}. For numbers set data.task to regression"
            )
        codes = {name: code for code, name in enumerate(found)}
        known = np.array([text in codes for text in targets], bool)
        table.keep(known, f"{settings.target}: {UNKNOWN}")
        result = np.array([codes[text] for text in targets[known]], np.int64)
    if not len(result):
        raise DatasetInvalid(f"no row of a split can be used; left out: {table.left_out.told()}")
    raw: dict[str, npt.NDArray[Any]] = {}
    for name in features:
        values = table.columns[name]
        if name in numbers:
            raw[name] = parse_numbers(values, settings.missing)[0].astype(np.float32)
        else:
            raw[name] = values
        raw[name] = raw[name].reshape(-1, 1)
    return _Split(raw, result), found


def _typical(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Of a raw column ``[N, 1]`` the median or the commonest category, ``[1]``."""
    if values.dtype == object:
        counts = Counter(values[:, 0])
        return np.array([max(sorted(counts), key=lambda text: counts[text])], object)
    known = values[~np.isnan(values)].astype(np.float64)
    return np.array([stand_in(known, "median", 0.0)], np.float32)


def _fit(
    train: _Split, settings: TableSettings, numbers: list[str], outputs: int
) -> tuple[bytes, TableShape, tuple[tuple[str, ...], ...], dict[str, Any]]:
    """The graph, what the network is told, the columns of its inputs, and what was fitted."""
    graph = Graph()
    names = {
        name: graph.input(name, "FP32" if name in numbers else "BYTES", ["batch", 1])
        for name in train.raw
    }
    categories = [name for name in train.raw if name not in numbers]
    fitted: dict[str, Any] = {"numbers": {}, "categories": {}}
    sources: list[tuple[str, ...]] = []
    if numbers:
        matrix = np.concatenate([train.raw[name] for name in numbers], axis=1).astype(np.float64)
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
            coded, size = _category(graph, names[name], train.raw[name], settings)
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
