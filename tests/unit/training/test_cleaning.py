"""Rows that cannot be used: left out with reasons, told in numbers, and not too many of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton_training.worker.data.cleaning import LeftOut, TooManyInvalid, lines, settle
from lepton_training.worker.data.idx import load
from lepton_training.worker.data.loading import load_problem
from tests.training_jobs import spec_of
from tests.unit.training.conftest import write_dataset


def lost(**reasons: int) -> LeftOut:
    found = LeftOut()
    for reason, count in reasons.items():
        found.add(reason, f"t.csv line {count}", count)
    return found


def test_what_was_left_out_is_told_with_an_example() -> None:
    """To programs as plain data, and in the job's log as a line a split."""
    report = settle(
        {"train": (90, lost(few=2, many=8)), "test": (10, LeftOut())}, max_invalid_fraction=0.1
    )
    assert report["splits"]["train"] == {
        "read": 100,
        "kept": 90,
        "left_out": 10,
        "reasons": [
            {"reason": "many", "count": 8, "example": "t.csv line 8"},
            {"reason": "few", "count": 2, "example": "t.csv line 2"},
        ],
    }
    assert list(lines({"cleaning": report})) == [
        "train split: 100 rows read, 10 left out: 8 (many, such as t.csv line 8), "
        "2 (few, such as t.csv line 2)",
        "test split: 10 rows read, 0 left out",
    ]
    assert list(lines({})) == []


def test_one_row_too_many_fails() -> None:
    """Of any split; the commonest reasons are named, with a row to look at."""
    with pytest.raises(TooManyInvalid) as caught:
        settle(
            {"train": (90, LeftOut()), "test": (89, lost(a=1, b=2, c=3, d=5))},
            max_invalid_fraction=0.1,
        )
    message = caught.value.message
    assert "11 of the 100 rows of the test split" in message
    assert "data.max_invalid_fraction (0.1)" in message
    assert "5 (d, such as t.csv line 5)" in message
    assert "(a," not in message


TABLE = ["x,y", *[f"{n},{'ab'[n % 2]}" for n in range(18)], "?,a", "oops,b", "7,"]


@pytest.mark.parametrize(
    ("recipe", "files", "data", "example"),
    [
        ("tabular", {"t.csv": TABLE}, {"target": "y", "numbers": ["x"]}, "t.csv line 21"),
        (
            "text_bag",
            {"t.csv": ["label,text", "a,one", "b,two", "a,", "b, "] * 3},
            {},
            "t.csv line 4",
        ),
        (
            "series_rnn",
            {"t.csv": ["level", *[str(n) for n in range(20)], "x", "", "y", "z"]},
            {"target": "level", "window": 2},
            "t.csv line 22",
        ),
    ],
)
def test_too_many_rows_fail_a_job_of_every_kind(
    recipe: str, files: dict[str, list[str]], data: dict[str, Any], example: str, tmp_path: Path
) -> None:
    """With the file and the line; a higher bound lets it through."""
    for name, content in files.items():
        (tmp_path / name).write_text("\n".join(content))
    with pytest.raises(TooManyInvalid, match=example):
        load_problem(tmp_path, spec_of({**data, "max_invalid_fraction": 0.05}, recipe))
    problem = load_problem(tmp_path, spec_of({**data, "max_invalid_fraction": 0.9}, recipe))
    assert problem.report["cleaning"]["splits"]["train"]["left_out"] > 0


def test_steps_that_do_not_go_forward_are_left_out(tmp_path: Path) -> None:
    """Also within a day; zones are taken into account."""
    rows = [f"2001-01-01T{hour:02d}:00,{hour}" for hour in range(20)]
    rows[5] = "2001-01-01T04:00,5"  # as the one before it
    rows[9] = "2001-01-01T09:30+05:00,9"  # 04:30 in UTC
    (tmp_path / "s.csv").write_text("\n".join(["when,level", *rows]))
    spec = spec_of({"target": "level", "time": "when", "window": 2}, "series_rnn")
    split = load_problem(tmp_path, spec).report["cleaning"]["splits"]["train"]
    assert split["reasons"] == [
        {"reason": "when: not later than the row before", "count": 2, "example": "s.csv line 7"}
    ]


def test_blank_images_and_unknown_labels_are_left_out(tmp_path: Path) -> None:
    """Of IDX files; what is kept is as it was."""
    random = np.random.default_rng(0)
    images = random.integers(0, 255, (40, 8, 8)).astype(np.uint8)
    labels = (np.arange(40) % 2).astype(np.uint8)
    images[3], images[7] = 0, 200
    test_labels = labels.copy()
    test_labels[:3] = 9
    write_dataset(tmp_path, (images, labels), (images, test_labels))
    problem = load_problem(tmp_path, spec_of({"max_invalid_fraction": 0.2}, "mlp"))
    splits = problem.report["cleaning"]["splits"]
    assert splits["train"]["reasons"] == [
        {
            "reason": "one color throughout",
            "count": 2,
            "example": "train-images-idx3-ubyte.gz image 4",
        }
    ]
    assert [one["count"] for one in splits["test"]["reasons"]] == [3, 2]
    assert (len(problem.train), len(problem.test)) == (38, 35)
    assert np.array_equal(problem.raw_rows["images"][0], load(tmp_path).test.images[4])
    kept = load_problem(tmp_path, spec_of({"blank": "keep"}, "mlp"))
    assert len(kept.train) == 40


@pytest.mark.parametrize(
    ("recipe", "data"), [("autoencoder", {"anomalies": [1]}), ("dcgan", {"labels": [0]})]
)
def test_blank_images_are_neither_normal_nor_to_be_drawn(
    recipe: str, data: dict[str, Any], tmp_path: Path
) -> None:
    """The test split of anomalies keeps them: they may be what is to be found."""
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8)).astype(np.uint8)
    images[[2, 4]] = 0
    labels = (np.arange(40) % 2).astype(np.uint8)
    write_dataset(tmp_path / "d", (images, labels), (images, labels))
    problem = load_problem(tmp_path / "d", spec_of(data, recipe))
    assert len(problem.train) == 18
    assert problem.report["cleaning"]["splits"]["train"]["left_out"] == 2
    if recipe == "autoencoder":
        assert len(problem.test) == 40
    with pytest.raises(TooManyInvalid, match="image 3"):
        load_problem(tmp_path / "d", spec_of({**data, "max_invalid_fraction": 0.01}, recipe))
