"""``lepton model explain --input``: why a version answers a new row as it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.cli.conftest import Command
from tests.unit.sdk.fake_gateway import Gateway
from tests.unit.sdk.test_explanations import PAPERS, TABLE, people, serve, version


@pytest.fixture
def row(gateway: Gateway, tmp_path: Path) -> Path:
    """A file with a row, and a version that is served."""
    version(gateway, TABLE, classes=("no", "yes"), papers=PAPERS)
    serve(gateway, people)
    path = tmp_path / "row.json"
    path.write_text(json.dumps({"age": 60, "work": "Private"}))
    return path


def test_a_new_row_is_explained(row: Path, lepton: Command) -> None:
    """From a file or standard input; the parts with the largest first."""
    done = lepton.ok("model", "explain", "people/3", "--input", row)
    assert done.out.splitlines() == [
        "yes: output 0.8000, baseline 0.3000",
        "PART  VALUE    ATTRIBUTION  ERROR",
        "age   60       +0.3000      0.0000",
        "work  Private  +0.2000      0.0000",
    ]
    assert "endpoints/people was asked about 5 rows" in done.err
    found = lepton.ok(
        "model", "explain", "people/3", "-i", "-", "-o", "json", stdin=row.read_text()
    ).json
    assert found["version"] == "models/people/versions/3"
    assert [part["name"] for part in found["parts"]] == ["age", "work"]


def test_class_and_baseline_can_be_given(row: Path, tmp_path: Path, lepton: Command) -> None:
    baseline = tmp_path / "baseline.json"
    baseline.write_text(json.dumps({"age": 10, "work": "Private"}))
    arguments: tuple[Any, ...] = ("--input", row, "--baseline", baseline, "--target", "no")
    found = lepton.json("model", "explain", "people/3", *arguments)
    assert found["explained"] == "no"
    assert found["baseline"] == pytest.approx(0.7)


def test_an_array_is_explained(gateway: Gateway, tmp_path: Path, lepton: Command) -> None:
    """As numpy saves it; of many parts the ten largest are shown."""
    version(gateway, {"images": ("UINT8", [-1, 28, 28])})
    serve(gateway, lambda given: given["images"].mean(axis=(1, 2))[:, None])
    np.save(tmp_path / "image.npy", np.full((1, 28, 28), 64, np.uint8))
    done = lepton.ok("model", "explain", "people/3", "-i", tmp_path / "image.npy", "--budget", 300)
    lines = done.out.splitlines()
    assert lines[0] == "probabilities: output 64.0000, baseline 0.0000"
    assert len(lines) == 12 and "rows " in lines[2] and "columns " in lines[2]
    assert "the largest 10 of 64 parts" in done.err


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("--target yes", 2, "--target has no effect without --input"),
        ("--rows --budget 9", 2, "--budget has no effect without --input"),
        ("--rows --input {row}", 2, "give --rows, or a row of your own"),
        ("--input {row} --target maybe", 2, "no class 'maybe'; it has no, yes"),
        ("--input {row} --budget 1", 2, "2<=x<=1000000"),
        ("--input {folder}/gone.json", 2, "gone.json"),
        ("--input {folder}/row.txt", 2, "neither .npy nor .json"),
        ("--input {folder}/bad.json", 2, "is not JSON"),
        ("--input {folder}/less.json", 2, "work is missing"),
    ],
)
def test_what_cannot_be_explained_is_refused_plainly(
    words: str, code: int, told: str, row: Path, lepton: Command
) -> None:
    (row.parent / "bad.json").write_text("{")
    (row.parent / "row.txt").write_text("{}")
    (row.parent / "less.json").write_text('{"age": 1}')
    arguments = words.format(row=row, folder=row.parent).split()
    done = lepton("model", "explain", "people/3", *arguments)
    assert done.code == code and told in done.err and done.out == ""
    assert "Traceback" not in done.err
