"""Series: windows and what followed, scaled by a graph that is fitted on training steps only."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch

from lepton_training.recipes.data import SeriesSettings, SeriesShape
from lepton_training.spec import JobSpec
from lepton_training.worker.data.examples import ArrayExamples
from lepton_training.worker.data.files import Table, parse_numbers, read_tables, split_files
from lepton_training.worker.data.idx import DatasetInvalid
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.objectives import Regression
from lepton_training.worker.platform import TensorSpec
from lepton_training.worker.preprocessing import Graph, Preprocessor

INPUT, WINDOWS, OUTPUT = "window", "windows", "forecast"
_PARITY_ROWS = 256


class _Steps(NamedTuple):
    """Clean steps, oldest first."""

    values: npt.NDArray[np.float32]
    """``[N, features]``; the target is the first."""
    days: npt.NDArray[np.int64] | None
    """Month and day of each, as ``100 * month + day``; None without dates."""


def load(directory: Path, spec: JobSpec) -> Problem:
    """The series in ``directory``, to be forecast.

    Raises:
        DatasetInvalid: A file is damaged, has not the columns that the spec names, or is too
            short for a window.
    """
    settings, hyperparameters = cast(SeriesSettings, spec.data), cast(Any, spec.hyperparameters)
    train_files, test_files = split_files(directory, settings)
    table = read_tables(train_files, settings)
    steps = _clean(table, settings)
    left_out = {"train": dict(table.left_out)}
    if test_files:
        test_table = read_tables(test_files, settings)
        steps_after = _clean(test_table, settings)
        left_out["test"] = dict(test_table.left_out)
        begin, steps = len(steps.values), _joined(steps, steps_after)
    else:
        count = settings.test_rows or round(len(steps.values) * settings.test_share)
        begin = len(steps.values) - count
    # The last part of training, in time: what comes later may not help to train.
    first_held = begin - round(begin * hyperparameters.validation)
    parts = [(0, first_held), (first_held, begin), (begin, len(steps.values))]
    train, validation, test = (_windows(steps, settings, *part) for part in parts)
    for name, (windows, _) in (("training", train), ("test", test)):
        if not len(windows):
            raise DatasetInvalid(
                f"the {name} split is too short for a window of {settings.window} and a horizon of "
                f"{settings.horizon}; the series has {len(steps.values)} steps that can be read"
            )

    features = ["target", *settings.features]
    content = _graph(steps.values[:first_held], settings.window)
    preprocessor = Preprocessor(content)

    def examples(part: tuple[npt.NDArray[np.float32], ...]) -> ArrayExamples:
        (scaled,) = preprocessor.in_pieces({INPUT: part[0]})
        return ArrayExamples((torch.from_numpy(scaled),), torch.from_numpy(part[1]))

    baselines = {"persistence": np.repeat(test[0][:, -1:, 0], settings.horizon, axis=1)}
    if steps.days is not None:
        baselines["seasonal"] = _seasonal(steps, steps.days, first_held, test[1].shape)
    known = steps.values[:first_held, 0]
    return Problem(
        about=f"{len(train[0])} training"
        + (f", {len(validation[0])} validation" if len(validation[0]) else "")
        + f" and {len(test[0])} test windows of {settings.window} steps and {len(features)} columns"
        + "".join(
            f"; left out of {split}: {count} ({why})"
            for split, reasons in left_out.items()
            for why, count in reasons.items()
        ),
        shape=SeriesShape(settings.window, len(features), settings.horizon),
        train=examples(train),
        validation=examples(validation) if len(validation[0]) else None,
        test=examples(test),
        objective=Regression(
            hyperparameters,
            mean=float(known.mean()),
            deviation=float(known.std()) or 1.0,
            baselines=baselines,
        ),
        inputs=(
            TensorSpec(
                INPUT,
                "FP32",
                (-1, settings.window, len(features)),
                f"the last {settings.window} steps, oldest first: "
                + ", ".join([settings.target, *settings.features]),
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
        raw_rows={INPUT: test[0][:_PARITY_ROWS]},
        preprocessing=content,
        report={"left_out": left_out},
    )


def _clean(table: Table, settings: SeriesSettings) -> _Steps:
    columns = [settings.target, *settings.features]
    for name in [*columns, *([settings.time] if settings.time else [])]:
        if name not in table.columns:
            raise DatasetInvalid(
                f"there is no column '{name}'; the file has {', '.join(table.columns)}. Files "
                "without a line of names need data.header"
            )
    for name in columns:
        amounts, wrong = parse_numbers(table.columns[name], settings.missing)
        table.keep(~wrong, f"{name}: not a number")
        table.keep(~np.isnan(amounts[~wrong]), f"{name}: missing")
    days = None
    if settings.time:
        parsed = np.array([_day(text) for text in table.columns[settings.time]], np.int64)
        table.keep(parsed > 0, f"{settings.time}: not a date")
        days = parsed[parsed > 0]
    values = [parse_numbers(table.columns[name], [])[0] for name in columns]
    return _Steps(np.stack(values, axis=1).astype(np.float32), days)


def _day(text: str) -> int:
    """``100 * month + day``; 0 for what is no date."""
    try:
        day = date.fromisoformat(text.strip()[:10])
    except ValueError:
        return 0
    return 100 * day.month + day.day


def _joined(first: _Steps, second: _Steps) -> _Steps:
    days = None
    if first.days is not None and second.days is not None:
        days = np.concatenate([first.days, second.days])
    return _Steps(np.concatenate([first.values, second.values]), days)


def _windows(
    steps: _Steps, settings: SeriesSettings, begin: int, end: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Windows ``[N, window, features]`` and what followed ``[N, horizon]``, which lies in
    ``begin`` to ``end``; windows reach back before ``begin``."""
    window, horizon = settings.window, settings.horizon
    first = np.arange(max(begin, window), end - horizon + 1)
    past = first[:, None] + np.arange(-window, 0)
    after = first[:, None] + np.arange(horizon)
    return steps.values[past], steps.values[after, 0]


def _seasonal(
    steps: _Steps, days: npt.NDArray[np.int64], known: int, shape: tuple[int, ...]
) -> npt.NDArray[np.float32]:
    """The mean of training on the same day of the year; its mean of all where there is none."""
    values = steps.values[:known, 0]
    mean = float(values.mean())
    by_day = {
        int(day): float(values[days[:known] == day].mean()) for day in np.unique(days[:known])
    }
    guess = np.array([by_day.get(int(day), mean) for day in days], np.float32)
    last = len(steps.values) - shape[1]  # the last step that a forecast of the test begins with
    rows = np.arange(last - shape[0] + 1, last + 1)
    days_after: npt.NDArray[np.float32] = guess[rows[:, None] + np.arange(shape[1])]
    return days_after


def _graph(values: npt.NDArray[np.float32], window: int) -> bytes:
    """Standardizes each column of a window by the mean and deviation of ``values``."""
    graph = Graph()
    shape = ["batch", window, values.shape[1]]
    raw = graph.input(INPUT, "FP32", shape)
    deviation = values.std(axis=0)
    scaled = graph.add(
        "Div",
        graph.add("Sub", raw, graph.constant(values.mean(axis=0), np.float32)),
        graph.constant(np.where(deviation == 0, 1, deviation), np.float32),
    )
    graph.output(scaled, WINDOWS, "FP32", shape)
    return graph.build()
