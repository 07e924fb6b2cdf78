"""Which files are trained on and which are tested with: one rule for all kinds of data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lepton_training.recipes.data import SplitSettings
from lepton_training.worker.data.files import divide, split_files
from lepton_training.worker.data.idx import DatasetInvalid
from lepton_training.worker.data.loading import load_problem
from tests.training_jobs import spec_of

NAMES = ("a.csv", "b.csv", "test/a.csv")


@pytest.mark.parametrize(
    ("settings", "train", "test"),
    [
        ({}, ["a.csv", "b.csv", "test/a.csv"], []),
        ({"test": "test/*"}, ["a.csv", "b.csv"], ["test/a.csv"]),
        ({"train": "*.csv", "test": "test/*"}, ["a.csv", "b.csv"], ["test/a.csv"]),
        ({"train": "*", "test": "?.csv"}, ["test/a.csv"], ["a.csv", "b.csv"]),
        ({"train": "a.csv", "test": "*"}, None, None),
        ({"train": "a.csv", "test": "a.csv"}, None, None),
        ({"train": "d.csv"}, None, None),
        ({"test": "d.csv"}, None, None),
    ],
    ids=str,
)
def test_what_is_tested_with_is_never_trained_on(
    tmp_path: Path, settings: dict[str, str], train: list[str] | None, test: list[str] | None
) -> None:
    """Where both patterns have a file it is of the test split, as files and as parts of files."""
    for name in NAMES:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    given = SplitSettings(**settings)
    if train is None or test is None:
        with pytest.raises(DatasetInvalid, match=r"data\.(train|test) \("):
            split_files(tmp_path, given)
        with pytest.raises(DatasetInvalid, match=r"no row's path is like data\.(train|test) \("):
            divide([(name, name) for name in NAMES], given, seed=0, noun="row")
        return
    found = tuple(
        [path.relative_to(tmp_path).as_posix() for path in side]
        for side in split_files(tmp_path, given)
    )
    assert found == (train, test)
    if test:
        sides = divide([(name, name) for name in NAMES], given, seed=0, noun="row")
        assert sides == (train, test)


@pytest.mark.parametrize(
    ("recipe", "data", "line"),
    [
        ("tabular", {"target": "y"}, "{n},{c}"),
        ("text_bag", {"text": "x", "target": "y"}, "{c} w{n},{c}"),
    ],
)
def test_patterns_that_overlap(
    tmp_path: Path, recipe: str, data: dict[str, Any], line: str
) -> None:
    """`*.csv` to train on, one of which is the test split."""
    for name, count in (("more.csv", 40), ("test.csv", 10)):
        rows = [line.format(n=n, c="no" if n % 2 else "yes") for n in range(count)]
        (tmp_path / name).write_text("\n".join(["x,y", *rows]))
    spec = spec_of(data | {"train": "*.csv", "test": "test.csv"}, recipe)
    problem = load_problem(tmp_path, spec)
    assert (len(problem.train), len(problem.test)) == (40, 10)
