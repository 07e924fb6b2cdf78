"""Series: windows and what followed, scaled by a graph that is fitted on training steps only."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch

from lepton_mesh.texts import counted
from lepton_training.recipes.data import SeriesSettings, SeriesShape
from lepton_training.spec import JobSpec
from lepton_training.worker.data.cleaning import settle
from lepton_training.worker.data.examples import ArrayExamples
from lepton_training.worker.data.files import Table, parse_numbers, read_tables, split_files
from lepton_training.worker.data.fitted import Fitted, WarmStartMismatch
from lepton_training.worker.data.identity import digest_of_arrays
from lepton_training.worker.data.idx import DatasetInvalid
from lepton_training.worker.data.problem import PARITY_ROWS, Problem
from lepton_training.worker.objectives import Regression
from lepton_training.worker.platform import TensorSpec
from lepton_training.worker.preprocessing import Graph, Preprocessor, scale_of, stand_in

INPUT, WINDOWS, OUTPUT = "window", "windows", "forecast"


class _Steps(NamedTuple):
    """Clean steps, oldest first."""

    values: npt.NDArray[np.float32]
    """``[N, features]``; the target is the first; NaN where one is missing and to be imputed."""
    days: npt.NDArray[np.int64] | None
    """Month and day of each, as ``100 * month + day``; None without dates."""


class _Fitted(NamedTuple):
    """What training steps say of each column; ``[features]``."""

    fill: npt.NDArray[np.float32]
    """What stands for a missing number."""
    shift: npt.NDArray[np.float32]
    width: npt.NDArray[np.float32]
    """Numbers are scaled by taking ``shift`` off and dividing by ``width``."""


class _Part(NamedTuple):
    """Windows of one split."""

    past: npt.NDArray[np.float32]
    """``[N, window, features]``."""
    after: npt.NDArray[np.float32]
    """``[N, horizon]``: what followed each."""
    known: npt.NDArray[np.bool_]
    """Of all windows of the split, those that are here: all of what followed is known."""


def load(directory: Path, spec: JobSpec, fitted: Fitted | None = None) -> Problem:
    """The series in ``directory``, to be forecast.

    Raises:
        DatasetInvalid: A file is damaged, has not the columns that the spec names, or is too
            short for a window.
        TooManyInvalid: More steps cannot be used than the spec allows.
        WarmStartMismatch: ``fitted`` is of other windows.
    """
    settings, hyperparameters = cast(SeriesSettings, spec.data), cast(Any, spec.hyperparameters)
    train_files, test_files = split_files(directory, settings)
    table = read_tables(train_files, settings)
    steps = _clean(table, settings)
    read = {"train": (len(steps.values), table.left_out)}
    if test_files:
        test_table = read_tables(test_files, settings)
        steps_after = _clean(test_table, settings)
        read["test"] = (len(steps_after.values), test_table.left_out)
        begin, steps = len(steps.values), _joined(steps, steps_after)
    else:
        count = settings.test_rows or round(len(steps.values) * settings.test_share)
        begin = len(steps.values) - count
    cleaning = settle(read, max_invalid_fraction=settings.max_invalid_fraction)
    # The last part of training, in time: what comes later may not help to train.
    first_held = begin - round(begin * hyperparameters.validation)
    parts = [(0, first_held), (first_held, begin), (begin, len(steps.values))]
    train, validation, test = (_windows(steps, settings, *part) for part in parts)
    for name, part in (("training", train), ("test", test)):
        if not len(part.past):
            raise DatasetInvalid(
                f"the {name} split is too short for a window of {settings.window} and a horizon of "
                f"{settings.horizon}; the series has "
                f"{counted(len(steps.values), 'step')} to read"
            )

    features = ["target", *settings.features]
    scaling = _fit(steps.values[:first_held], settings)
    content = _graph(scaling, settings)
    last = test.past[:, -1:, 0]
    last = np.where(np.isnan(last), scaling.fill[0], last)
    baselines = {"persistence": np.repeat(last, settings.horizon, axis=1)}
    if steps.days is not None:
        sizes = (len(test.known), settings.horizon)
        baselines["seasonal"] = _seasonal(steps, steps.days, first_held, sizes)[test.known]
    target = _filled(steps.values[:first_held], scaling.fill)[:, 0]
    mean, deviation = float(target.mean()), float(target.std()) or 1.0
    training_mean = mean
    shape = SeriesShape(
        settings.window,
        len(features),
        settings.horizon,
        last_factor=float(scaling.width[0]) / deviation,
        last_shift=(float(scaling.shift[0]) - mean) / deviation,
    )
    if fitted is not None and fitted.preprocessing is not None:
        taken = SeriesShape(**fitted.shape)
        if (taken.window, taken.features) != (shape.window, shape.features):
            raise WarmStartMismatch(
                f"{fitted.version} takes windows of {taken.window} steps and {taken.features} "
                f"columns, and these have {shape.window} and {shape.features}; set data.window "
                "and data.features as they were"
            )
        content, mean, deviation = fitted.preprocessing, fitted.mean, fitted.deviation
        shape = replace(taken, outputs=settings.horizon)
    preprocessor = Preprocessor(content)

    def examples(part: _Part) -> ArrayExamples:
        (scaled,) = preprocessor.in_pieces({INPUT: part.past})
        return ArrayExamples((torch.from_numpy(scaled),), torch.from_numpy(part.after))

    return Problem(
        about=f"{len(train.past)} training"
        + (f", {len(validation.past)} validation" if len(validation.past) else "")
        + f" and {len(test.past)} test windows of {settings.window} steps and {len(features)} "
        "columns",
        shape=shape,
        train=examples(train),
        validation=examples(validation) if len(validation.past) else None,
        test=examples(test),
        objective=Regression(
            hyperparameters,
            mean=mean,
            deviation=deviation,
            training_mean=training_mean,
            baselines=baselines,
        ),
        inputs=(
            TensorSpec(
                INPUT,
                "FP32",
                (-1, settings.window, len(features)),
                f"the last {settings.window} steps, oldest first: "
                + ", ".join([settings.target, *settings.features])
                + ("" if settings.impute == "leave_out" else "; NaN where missing"),
            ),
        ),
        outputs=(
            TensorSpec(
                OUTPUT,
                "FP32",
                (-1, settings.horizon),
                f"{settings.target} in the next {settings.horizon} steps",
            ),
        ),
        class_names=(),
        raw_rows={INPUT: test.past[:PARITY_ROWS]},
        test_digest=digest_of_arrays(test.after),
        columns=((settings.target, *settings.features),),
        baseline={INPUT: _typical(steps.values[:first_held], settings.window)},
        preprocessing=content,
        report={
            "cleaning": cleaning,
            "numbers": {
                name: dict(zip(("imputed", "shift", "width"), map(float, column), strict=True))
                for name, column in zip(
                    [settings.target, *settings.features], zip(*scaling, strict=True), strict=True
                )
            },
        },
    )


def _clean(table: Table, settings: SeriesSettings) -> _Steps:
    columns = [settings.target, *settings.features]
    for name in [*columns, *([settings.time] if settings.time else [])]:
        if name not in table.columns:
            raise DatasetInvalid(
                f"there is no column '{name}'; the file has {table.told}. Files "
                "without a line of names need data.header"
            )
    for name in columns:
        amounts, wrong = parse_numbers(table.columns[name], settings.missing)
        table.keep(~wrong, f"{name}: not a number")
        if settings.impute == "leave_out":
            table.keep(~np.isnan(amounts[~wrong]), f"{name}: missing")
    days = None
    if settings.time:
        days = _days(table, settings.time)
    missing = [] if settings.impute == "leave_out" else settings.missing
    values = [parse_numbers(table.columns[name], missing)[0] for name in columns]
    return _Steps(np.stack(values, axis=1).astype(np.float32), days)


def _days(table: Table, column: str) -> npt.NDArray[np.int64]:
    """``100 * month + day`` of each step; leaves out those that are not later than the last."""
    moments = [_moment(text) for text in table.columns[column]]
    table.keep(np.array([one is not None for one in moments], bool), f"{column}: not a date")
    known = [one for one in moments if one is not None]
    seconds = np.array([one.timestamp() for one in known])
    before = np.maximum.accumulate(np.concatenate([[-np.inf], seconds]))[:-1]
    later = seconds > before
    table.keep(later, f"{column}: not later than the row before")
    days = np.array([100 * one.month + one.day for one in known], np.int64)
    return days[later]


def _moment(text: str) -> datetime | None:
    """In UTC where the text names no other zone; None for what is no date."""
    stripped = text.strip()
    try:
        moment = datetime.fromisoformat(stripped)
    except ValueError:
        try:
            moment = datetime.combine(date.fromisoformat(stripped[:10]), datetime.min.time())
        except ValueError:
            return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _joined(first: _Steps, second: _Steps) -> _Steps:
    days = None
    if first.days is not None and second.days is not None:
        days = np.concatenate([first.days, second.days])
    return _Steps(np.concatenate([first.values, second.values]), days)


def _windows(steps: _Steps, settings: SeriesSettings, begin: int, end: int) -> _Part:
    """Windows and what followed, which lies in ``begin`` to ``end``; windows reach back before
    ``begin``. Those of which something that followed is missing are not among them."""
    window, horizon = settings.window, settings.horizon
    first = np.arange(max(begin, window), end - horizon + 1)
    past = first[:, None] + np.arange(-window, 0)
    after = steps.values[first[:, None] + np.arange(horizon), 0]
    known = ~np.isnan(after).any(axis=1)
    return _Part(steps.values[past[known]], after[known], known)


def _seasonal(
    steps: _Steps, days: npt.NDArray[np.int64], known: int, shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """The mean of training on the same day of the year; its mean of all where there is none."""
    values, days_known = steps.values[:known, 0], days[:known]
    there = ~np.isnan(values)
    values, days_known = values[there], days_known[there]
    mean = float(values.mean())
    by_day = {int(day): float(values[days_known == day].mean()) for day in np.unique(days_known)}
    guess = np.array([by_day.get(int(day), mean) for day in days], np.float32)
    last = len(steps.values) - shape[1]  # the last step that a forecast of the test begins with
    rows = np.arange(last - shape[0] + 1, last + 1)
    days_after: npt.NDArray[np.float32] = guess[rows[:, None] + np.arange(shape[1])]
    return days_after


def _fit(values: npt.NDArray[np.float32], settings: SeriesSettings) -> _Fitted:
    """Of training ``values`` ``[N, features]``."""
    columns = values.astype(np.float64).T
    fill = np.array(
        [stand_in(c[~np.isnan(c)], settings.impute, settings.impute_value) for c in columns],
        np.float32,
    )
    shift, width = scale_of(_filled(values, fill), settings.scaling)
    return _Fitted(fill, shift.astype(np.float32), width.astype(np.float32))


def _typical(values: npt.NDArray[np.float32], window: int) -> npt.NDArray[np.float32]:
    """A window ``[window, features]`` of which each step is the mean of ``values``."""
    columns = values.astype(np.float64).T
    means = [stand_in(column[~np.isnan(column)], "mean", 0.0) for column in columns]
    return np.tile(np.array(means, np.float32), (window, 1))


def _filled(
    values: npt.NDArray[np.float32], fill: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    return np.where(np.isnan(values), fill, values)


def _graph(fitted: _Fitted, settings: SeriesSettings) -> bytes:
    """Imputes and scales each column of a window."""
    graph = Graph()
    shape: list[int | str] = ["batch", settings.window, len(fitted.fill)]
    values = graph.input(INPUT, "FP32", shape)
    if settings.impute != "leave_out":
        fill = graph.constant(fitted.fill, np.float32)
        values = graph.add("Where", graph.add("IsNaN", values), fill, values)
    scaled = graph.add(
        "Div",
        graph.add("Sub", values, graph.constant(fitted.shift, np.float32)),
        graph.constant(fitted.width, np.float32),
    )
    graph.output(scaled, WINDOWS, "FP32", shape)
    return graph.build()
