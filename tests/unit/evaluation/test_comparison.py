"""Two models on the same rows, and what is kept of each."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from lepton.evaluation import NotComparable, Predictions, PredictionsUnreadable, compare
from lepton.evaluation import predictions as kept
from lepton.evaluation.resampling import Array

TRUTH = np.random.default_rng(0).integers(0, 2, 400)


def classifier(wrong: Array, confidence: float = 0.8) -> Predictions:
    """Wrong in the given rows, and as sure there as elsewhere."""
    predicted = np.where(np.isin(np.arange(400), wrong), 1 - TRUTH, TRUTH)
    outputs = np.where(np.eye(2)[predicted] == 1, confidence, 1 - confidence).astype(np.float32)
    return Predictions.of(
        "classification", TRUTH, outputs, test_digest="sha256:a", class_names=("no", "yes")
    )


def regressor(noise: float, seed: int) -> Predictions:
    truth = np.arange(300, dtype=np.float32).reshape(-1, 1)
    guess = truth + np.random.default_rng(seed).normal(0, noise, (300, 1)).astype(np.float32)
    return Predictions.of("regression", truth, guess, test_digest="sha256:a")


def test_a_better_classifier_is_told_from_a_worse() -> None:
    """100 and 60 rows wrong, 10 in common: McNemar's 90 against 50."""
    found = compare(classifier(np.arange(100)), classifier(np.arange(90, 150)), resamples=500)
    assert (found.rows, found.only_first_right, found.only_second_right) == (400, 50, 90)
    by_name = {each.metric: each for each in found.differences}
    accuracy = by_name["test_accuracy"]
    assert (accuracy.first, accuracy.second) == (0.75, 0.85)
    assert accuracy.difference == pytest.approx(0.1)
    assert accuracy.test == "mcnemar-exact"
    assert accuracy.p_value == pytest.approx(0.00091, abs=1e-5)
    assert accuracy.interval is not None and 0 < accuracy.interval[0] < 0.1 < accuracy.interval[1]
    assert accuracy.better == "second"
    loss = by_name["test_log_loss"]
    assert (loss.test, loss.better) == ("paired-bootstrap", "second")
    assert loss.difference < 0


def test_luck_is_told_from_skill() -> None:
    """Of 30 and 33 rows wrong nobody is the better."""
    found = compare(classifier(np.arange(30)), classifier(np.arange(27, 60)), resamples=500)
    assert {each.better for each in found.differences} == {"neither"}
    same = compare(classifier(np.arange(9)), classifier(np.arange(9)), resamples=100)
    assert {each.p_value for each in same.differences} == {1.0}


def test_regressors_are_compared_by_their_errors() -> None:
    found = compare(regressor(2.0, 1), regressor(1.0, 2), resamples=500)
    assert found.only_first_right is None
    assert {each.metric: each.better for each in found.differences} == {
        "test_mae": "second",
        "test_rmse": "second",
        "test_r2": "second",
    }
    back = compare(regressor(1.0, 2), regressor(2.0, 1), resamples=500)
    assert {each.better for each in back.differences} == {"first"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"test_digest": "sha256:b"}, "their test splits differ"),
        ({"test_digest": ""}, "their test splits differ"),
        ({"class_names": ("yes", "no")}, "their classes differ"),
        ({"truth": 1 - TRUTH}, "the true values of their rows differ"),
        ({"kind": "regression"}, "one is a model of classification, the other of regression"),
    ],
)
def test_other_rows_are_not_compared(change: dict[str, object], reason: str) -> None:
    first = classifier(np.arange(9))
    with pytest.raises(NotComparable, match=reason):
        compare(first, dataclasses.replace(first, **change))


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    said = classifier(np.arange(9))
    said.bounded().write(tmp_path / "p.npz")
    found = Predictions.read((tmp_path / "p.npz").read_bytes())
    assert (found.kind, found.class_names, found.test_rows) == (
        "classification",
        ("no", "yes"),
        400,
    )
    for name in ("truth", "outputs", "predicted", "chosen"):
        assert np.array_equal(getattr(found, name), getattr(said, name))


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows: the same part of every model; many classes: no whole outputs, and no areas."""
    monkeypatch.setattr(kept, "ROWS_MAX", 100)
    first, second = classifier(np.arange(9)).bounded(), classifier(np.arange(50)).bounded()
    assert len(first) == 100 and first.test_rows == 400
    assert np.array_equal(first.truth, second.truth)
    assert not np.array_equal(first.truth, TRUTH[:100])
    monkeypatch.setattr(kept, "CELLS_MAX", 150)
    small = classifier(np.arange(50)).bounded()
    assert small.outputs is None
    metrics = [each.metric for each in compare(first, small, resamples=100).differences]
    assert metrics == ["test_accuracy", "macro_f1", "test_log_loss"]


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    """No traceback of NumPy, and no pickle is opened."""
    path = tmp_path / "p.npz"
    classifier(np.arange(9)).write(path)
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, about=np.array([{}], object), allow_pickle=True)
    empty = tmp_path / "empty.npz"
    zipfile.ZipFile(empty, "w").close()
    whole = path.read_bytes()
    bits = bytearray(whole)
    bits[100:140] = bytes(40)
    contents = (
        b"",
        b"nonsense",
        whole[:300],
        bytes(bits),
        pickled.read_bytes(),
        empty.read_bytes(),
    )
    for content in contents:
        with pytest.raises(PredictionsUnreadable, match="damaged"):
            Predictions.read(content)


def test_what_is_kept_is_read_as_it_was(tmp_path: Path) -> None:
    """Of each task."""
    scores = np.linspace(0, 1, 9, dtype=np.float32)
    anomalies = Predictions.of("anomaly", scores > 0.5, scores, test_digest="sha256:a")
    for number, said in enumerate((classifier(np.arange(9)), regressor(0.1, 0), anomalies)):
        path = tmp_path / f"{number}.npz"
        said.write(path)
        read = Predictions.read(path.read_bytes())
        assert (read.kind, read.class_names, read.test_rows) == (
            said.kind,
            said.class_names,
            said.test_rows,
        )
        assert np.array_equal(read.truth, said.truth)
        assert read.outputs is not None and said.outputs is not None
        assert np.array_equal(read.outputs, said.outputs)
        assert np.array_equal(read.predicted, said.predicted)


@pytest.mark.parametrize(
    "changes",
    [
        {"truth": TRUTH[:399]},
        {"truth": TRUTH.astype(np.float32)},
        {"truth": TRUTH + 1},
        {"predicted": -TRUTH},
        {"predicted": TRUTH.reshape(20, 20)},
        {"chosen": np.zeros(0, np.float32)},
        {"outputs": np.zeros((400, 3), np.float32)},
        {"outputs": np.full((400, 2), "0.5")},
        {"about": np.zeros(3, np.uint8)},
        {"about": np.frombuffer(b'{"kind": "classification"}', np.uint8)},
        {"about": np.frombuffer(b'["regression"]', np.uint8)},
        {"truth": np.zeros(0, np.int64), "predicted": np.zeros(0, np.int64)},
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, changes: dict[str, Array]) -> None:
    """A job may have written them; the comparison would fail far from the cause."""
    path = tmp_path / "p.npz"
    classifier(np.arange(9)).write(path)
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez_compressed(path, allow_pickle=False, **(arrays | changes))
    with pytest.raises(PredictionsUnreadable, match="damaged"):
        Predictions.read(path.read_bytes())


def test_an_archive_that_expands_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what it says to hold, nor what an array says to be, is taken into memory."""
    path = tmp_path / "p.npz"
    classifier(np.arange(9)).write(path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)}
    )
    lying = tmp_path / "lying.npz"
    with zipfile.ZipFile(lying, "w") as archive:
        archive.writestr("truth.npy", header.getvalue())
    with pytest.raises(PredictionsUnreadable, match="not whole"):
        Predictions.read(lying.read_bytes())
    monkeypatch.setattr(kept, "EXPANDED_BYTES_MAX", 1000)
    with pytest.raises(PredictionsUnreadable, match="expands"):
        Predictions.read(path.read_bytes())
    other = tmp_path / "other.npz"
    with zipfile.ZipFile(other, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("truth.npy", b"x")
    with pytest.raises(PredictionsUnreadable, match="deflate"):
        Predictions.read(other.read_bytes())
