"""Series: windows that never look ahead, scaled by training, compared with simple forecasts."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from lepton_training.recipes import RECIPES
from lepton_training.spec import JobSpecInvalid
from lepton_training.worker.data.idx import DatasetInvalid
from lepton_training.worker.data.loading import load_problem
from lepton_training.worker.preprocessing import Preprocessor
from lepton_training.worker.trainer import predict
from tests.training_jobs import PLAN, exported, spec_of, trained


def write(directory: Path, values: np.ndarray, name: str = "s.csv") -> None:
    first = date(2001, 1, 1)
    rows = [f"{first + timedelta(days=day)},{value:.4f}" for day, value in enumerate(values)]
    (directory / name).write_text("\n".join(["day,level", *rows]))


def test_a_series_is_forecast_better_than_by_persistence(tmp_path: Path) -> None:
    """A wave; the served model takes raw values and gives raw values."""
    write(tmp_path, 100 + 20 * np.sin(np.arange(600) / 3))
    spec = spec_of(
        {"target": "level", "time": "day", "window": 12, "horizon": 2, "test_rows": 100},
        "series_rnn",
        epochs=12,
        batch_size=16,
        learning_rate=0.01,
        dropout=0,
        hidden=16,
    )
    problem = load_problem(tmp_path, spec)
    assert (len(problem.train), len(problem.test)) == (500 - 12 - 1, 99)
    network = trained(problem, spec)
    predicted = predict(network, problem.test, problem.objective, PLAN)
    figures = problem.objective.evaluate(problem.test.targets.numpy(), predicted).metrics()
    assert figures["test_rmse"] < 0.3 * figures["persistence_rmse"]
    assert figures["test_rmse"] < figures["seasonal_rmse"]

    assert exported(tmp_path / "export", problem, spec, network)["agrees"]
    session = onnxruntime.InferenceSession(tmp_path / "export" / "model.onnx")
    (answer,) = session.run(None, {"window": problem.raw_rows["window"][:3]})
    assert answer == pytest.approx(predicted[:3], abs=1e-2)
    assert answer.shape == (3, 2)


def test_windows_do_not_look_ahead(tmp_path: Path) -> None:
    """What follows begins after the window's last step; scaling knows training steps alone."""
    write(tmp_path, np.r_[np.arange(80.0), np.full(20, 1e6)])
    spec = spec_of({"target": "level", "window": 3, "test_rows": 20}, "series_rnn", validation=0.1)
    problem = load_problem(tmp_path, spec)
    assert problem.validation is not None
    assert problem.train.targets[0].tolist() == [3]
    assert problem.train.targets[-1].tolist() == [71]
    assert problem.validation.targets[:, 0].tolist() == list(range(72, 80))
    assert problem.raw_rows["window"][0, :, 0].tolist() == [77, 78, 79]
    assert problem.preprocessing is not None
    mean = float(np.arange(72).mean())
    (scaled,) = Preprocessor(problem.preprocessing)(
        {"window": np.full((1, 3, 1), mean, np.float32)}
    )
    assert scaled == pytest.approx(np.zeros((1, 3, 1)), abs=1e-6)


def test_steps_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    """By reason."""
    lines = ["day,level", *(f"2001-01-{day:02d},{day}" for day in range(1, 29))]
    lines[3], lines[5], lines[7] = "2001-01-03,?", "2001-01-05,x", "soon,7"
    (tmp_path / "s.csv").write_text("\n".join(lines))
    data = {"target": "level", "time": "day", "window": 2, "max_invalid_fraction": 0.2}
    problem = load_problem(tmp_path, spec_of(data, "series_rnn"))
    assert problem.report["cleaning"]["splits"]["train"]["reasons"] == [
        {"reason": "day: not a date", "count": 1, "example": "s.csv line 8"},
        {"reason": "level: missing", "count": 1, "example": "s.csv line 4"},
        {"reason": "level: not a number", "count": 1, "example": "s.csv line 6"},
    ]


@pytest.mark.parametrize(
    ("scaling", "impute"),
    [
        ("minmax", "mean"),
        ("symmetric", "most_frequent"),
        ("none", "constant"),
        ("standard", "median"),
    ],
)
def test_gaps_may_be_imputed_and_windows_scaled_otherwise(
    scaling: str, impute: str, tmp_path: Path
) -> None:
    """An endpoint then takes NaN; an untrained forecast is the last step, whatever the scaling."""
    values = 50 + np.arange(60.0) % 7
    lines = ["level", *[f"{value}" for value in values]]
    lines[10] = lines[55] = "?"
    (tmp_path / "s.csv").write_text("\n".join(lines))
    data = {"target": "level", "window": 3, "test_rows": 12, "scaling": scaling, "impute": impute}
    if impute == "constant":
        data["impute_value"] = 52.5
    spec = spec_of(data, "series_rnn", batch_size=8, hidden=4, epochs=1)
    problem = load_problem(tmp_path, spec)
    assert len(problem.train) == 48 - 3 - 1  # what follows one window is missing
    assert len(problem.test) == 11
    assert np.isnan(problem.raw_rows["window"]).sum() == 3
    known = np.delete(values[:48], 9)
    fill = problem.report["numbers"]["level"]["imputed"]
    middle = {
        "mean": known.mean(),
        "median": np.median(known),
        "most_frequent": np.unique(known)[np.unique(known, return_counts=True)[1].argmax()],
        "constant": 52.5,
    }[impute]
    assert fill == pytest.approx(middle)
    assert problem.preprocessing is not None
    (scaled,) = Preprocessor(problem.preprocessing)({"window": problem.raw_rows["window"]})
    low, high = {"minmax": (0, 1), "symmetric": (-1, 1), "none": (50, 56), "standard": (-2, 2)}[
        scaling
    ]
    assert scaled.min() >= low and scaled.max() <= high

    network = RECIPES["series_rnn"].build(spec.hyperparameters, problem.shape)
    predicted = predict(network, problem.test, problem.objective, PLAN)
    last = problem.raw_rows["window"][:, -1]
    assert predicted == pytest.approx(np.where(np.isnan(last), fill, last), abs=1e-3)
    assert exported(tmp_path / "export", problem, spec, network)["agrees"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"target": "depth"}, "no column 'depth'"),
        ({"target": "level", "window": 50}, "too short for a window of 50"),
        ({"target": "level", "time": "hour"}, "no column 'hour'"),
    ],
)
def test_what_is_wrong_with_a_series_is_said(
    data: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """With the remedy."""
    write(tmp_path, np.arange(40.0))
    with pytest.raises(DatasetInvalid) as caught:
        load_problem(tmp_path, spec_of(data, "series_rnn"))
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"target": "y", "test_rows": 5, "test_share": 0.5}, "spec.data.test_rows"),
        ({"target": "y", "impute_value": 1.0}, "spec.data.impute_value"),
        ({"target": "y", "features": ["y"]}, "spec.data.features"),
        ({}, "spec.data.target"),
    ],
)
def test_settings_that_do_not_go_together_are_faults(data: dict[str, Any], path: str) -> None:
    """Before any file is read."""
    with pytest.raises(JobSpecInvalid) as caught:
        spec_of(data, "series_rnn")
    assert [fault.path for fault in caught.value.faults] == [path]
