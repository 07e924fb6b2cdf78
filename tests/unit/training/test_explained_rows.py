"""What is kept to explain new rows with, tried on models as they are exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from lepton.evaluation.parts import Elements, Parts, Words
from lepton.evaluation.shapley import Array, ShapleyValues, shapley_values
from lepton_training.worker.data.loading import load_problem
from lepton_training.worker.warm_start import papers
from tests.training_jobs import exported, spec_of, trained
from tests.unit.training.test_series import write as write_series
from tests.unit.training.test_tables import rows
from tests.unit.training.test_texts import in_csv, sentences


def explained(model: Path, parts: Parts, number: int) -> ShapleyValues:
    """Of one number of a model's output; one row at a time, as in the smallest batch."""
    session = onnxruntime.InferenceSession(model)

    def game(there: Array) -> Array:
        answers = [
            session.run(None, parts.inputs(there[row : row + 1]))[0] for row in range(len(there))
        ]
        return np.concatenate(answers)[:, number].astype(np.float64)

    return shapley_values(game, len(parts.names), budget=200, seed=0)


def test_a_row_of_a_table_is_compared_with_medians_and_commonest(tmp_path: Path) -> None:
    """Of the training split alone; what the class owes to each column shows."""
    train = rows(300, 0)
    (tmp_path / "train.csv").write_text("\n".join(["x,letter,wanted", *train]))
    (tmp_path / "test.csv").write_text("\n".join(["x,letter,wanted", *rows(50, 1), "900,z,no"]))
    data = {"train": "train.csv", "test": "test.csv", "target": "wanted"}
    spec = spec_of(data, epochs=12, batch_size=16, learning_rate=5e-3, hidden=[16])
    problem = load_problem(tmp_path, spec)
    kept = json.loads(json.dumps(papers(spec, problem)))["baseline"]
    columns: dict[str, Any] = {"x": [], "letter": []}
    for line in train:
        number, letter, _ = line.split(",")
        columns["x"].append(float(number))
        columns["letter"].append(letter)
    assert kept["x"] == [pytest.approx(np.median(columns["x"]))]
    assert kept["letter"] == [max(" a", " b", key=columns["letter"].count)]

    exported(tmp_path / "export", problem, spec, trained(problem, spec))
    baseline = {"x": np.array(kept["x"], np.float32), "letter": np.array([" a"], object)}
    row = {"x": np.array([-3], np.float32), "letter": np.array([" b"], object)}
    found = explained(tmp_path / "export" / "model.onnx", Elements(row, baseline), 1)
    less, more = found.values
    assert less < -0.2 and more > 0.1  # a small number, and the letter b
    assert less + more == pytest.approx(found.output - found.baseline)


def test_missing_values_count_for_nothing_in_medians(tmp_path: Path) -> None:
    """A blank is a category as others are."""
    lines = ["n,c,y", "1,,a", "?,,b", "3,p,a", "100,,b"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    (tmp_path / "v.csv").write_text("\n".join(lines))
    spec = spec_of({"train": "t.csv", "test": "v.csv", "target": "y"})
    baseline = load_problem(tmp_path, spec).baseline
    assert (baseline["n"].tolist(), baseline["c"].tolist()) == ([3.0], [""])
    assert baseline["n"].dtype == np.float32


def test_a_window_is_compared_with_the_mean(tmp_path: Path) -> None:
    """Of training, in each of its steps."""
    write_series(tmp_path, np.r_[np.arange(80.0), np.full(20, 1e6)])
    spec = spec_of({"target": "level", "window": 3, "test_rows": 20}, "series_rnn")
    problem = load_problem(tmp_path, spec)
    assert papers(spec, problem)["baseline"] == {"window": [[39.5]] * 3}


def test_a_text_needs_no_baseline(tmp_path: Path) -> None:
    """The word that makes it has the largest part, and a text without any word is answered."""
    in_csv(tmp_path, sentences(200, 0))
    spec = spec_of(
        {"test_share": 0.25}, "text_bag", epochs=12, batch_size=16, learning_rate=0.02,
        dimensions=8, buckets=500,
    )  # fmt: skip
    problem = load_problem(tmp_path, spec)
    assert papers(spec, problem)["baseline"] is None
    exported(tmp_path / "export", problem, spec, trained(problem, spec))
    parts = Words("text", "a good story was long")
    found = explained(tmp_path / "export" / "model.onnx", parts, 1)
    assert parts.names[int(found.values.argmax())] == "word 2"
    assert found.values.sum() == pytest.approx(found.output - found.baseline)
