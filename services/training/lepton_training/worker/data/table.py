"""Rows of tables: read, cleaned, and prepared by a graph (``table_preprocessing``)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from onnx import TensorProto

from lepton_mesh.texts import counted
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
from lepton_training.worker.data.table_preprocessing import fit
from lepton_training.worker.objectives import (
    Classification,
    Objective,
    Regression,
    class_weights,
)
from lepton_training.worker.platform import TensorSpec
from lepton_training.worker.preprocessing import Preprocessor, stand_in
from lepton_training.worker.slices import cut

_CLASSES_MAX = 10_000


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
        preprocessing, shape, sources, report = fit(train.raw, settings, numbers, outputs)
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
                f"column '{settings.target}' has {counted(len(found), 'class', 'classes')}; "
                f"training needs 2 to {_CLASSES_MAX}. For numbers set data.task to regression"
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
