"""How good a version is, whether another is better, and what it owes to its columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from lepton.api.registry.v1 import registry_pb2
from lepton.evaluation import Predictions
from tests.unit.cli.conftest import Command
from tests.unit.sdk.fake_gateway import Gateway

EVALUATION: dict[str, Any] = {
    "accuracy": 0.9,
    "test_set": {"rows": 200, "digest": "sha256:a"},
    "bootstrap": {"resamples": 1000, "confidence": 0.9, "seed": 0},
    "intervals": {"test_accuracy": [0.85, 0.95]},
    "slices": [
        {
            "column": "sex",
            "value": "f",
            "rows": 12,
            "small": True,
            "metrics": {"test_accuracy": 0.75, "macro_f1": 0.7},
            "intervals": {"test_accuracy": [0.5, 1.0]},
        }
    ],
    "importance": [
        {
            "column": "age",
            "metric": "test_log_loss",
            "rise": 0.25,
            "interval": [0.2, 0.3],
            "accuracy_drop": 0.1,
            "rows": 200,
            "repeats": 5,
        }
    ],
}
EXPLANATIONS = {
    "method": "integrated gradients",
    "rows": [
        {
            "row": 17,
            "truth": "yes",
            "predicted": "no",
            "output": 0.9,
            "baseline": 0.4,
            "remainder": 0.0,
            "parts": [
                {"name": "age", "value": "39", "attribution": 0.6},
                {"name": "sex", "value": "f", "attribution": -0.1},
            ],
            "pixels": [],
        }
    ],
}


def predictions(path: Path, wrong: int, digest: str = "sha256:a") -> bytes:
    """200 rows, the first ``wrong`` of which are not right."""
    truth = np.arange(200) % 2
    predicted = np.where(np.arange(200) < wrong, 1 - truth, truth)
    outputs = np.where(np.eye(2)[predicted] == 1, 0.8, 0.2).astype(np.float32)
    said = Predictions.of(
        "classification", truth, outputs, test_digest=digest, class_names=("no", "yes")
    )
    said.write(path)
    return path.read_bytes()


def add(
    gateway: Gateway, name: str, evaluation: dict[str, Any] | None, **files: bytes
) -> registry_pb2.ModelVersion:
    """A version of the registry with attachments; ``__`` in their names is a full stop."""
    version = registry_pb2.ModelVersion(
        name=f"models/digits/versions/{name}", metrics={"test_accuracy": 0.9, "macro_f1": 0.5}
    )
    version.evaluation.update(evaluation or {})
    for key, content in files.items():
        file = key.replace("__", ".")
        artifact = f"artifacts/{name}-{file}"
        version.attachments[file] = artifact
        gateway.storage.artifacts[artifact] = content
    gateway.registry.added[version.name] = version
    return version


@pytest.fixture
def versions(gateway: Gateway, tmp_path: Path) -> Gateway:
    """Three versions: 5 is good, 6 is bad, 7 was tested on other rows."""
    path = tmp_path / "p.npz"
    explanations = json.dumps(EXPLANATIONS).encode()
    add(
        gateway,
        "5",
        EVALUATION,
        predictions__npz=predictions(path, 10),
        roc__png=b"\x89PNG",
        explanations__json=explanations,
    )
    add(gateway, "6", EVALUATION, predictions__npz=predictions(path, 50))
    other = EVALUATION | {"test_set": {"rows": 200, "digest": "sha256:b"}}
    add(gateway, "7", other, predictions__npz=predictions(path, 10, "sha256:b"))
    return gateway


def test_an_evaluation_is_shown(versions: Gateway, lepton: Command) -> None:
    """Figures with their intervals, and slices below."""
    lines = lepton.ok("model", "evaluation", "digits/5").out.splitlines()
    assert lines[0].split() == ["FIGURE", "VALUE", "90%", "INTERVAL"]
    assert lines[1].split() == ["macro_f1", "0.5000"]
    assert lines[2].split() == ["test_accuracy", "0.9000", "0.8500", "to", "0.9500"]
    assert lines[3] == ""
    assert lines[5].split() == ["sex", "f", "12", "(few)", "0.7500", "0.5000", "to", "1.0000"]
    found = lepton.json("model", "evaluation", "digits/5")
    assert found["intervals"] == EVALUATION["intervals"]
    assert yaml.safe_load(lepton.ok("model", "evaluation", "digits/5", "-o", "yaml").out) == found


def test_what_is_kept_beside_a_model_is_fetched(
    versions: Gateway, lepton: Command, tmp_path: Path
) -> None:
    done = lepton.ok("model", "evaluation", "digits/5", "-d", tmp_path / "new/folder")
    assert "wrote 3 files" in done.err
    assert (tmp_path / "new/folder/roc.png").read_bytes() == b"\x89PNG"


def test_a_file_that_leads_out_is_not_written(
    versions: Gateway, lepton: Command, tmp_path: Path
) -> None:
    version = versions.registry.added["models/digits/versions/6"]
    version.attachments["../out.png"] = version.attachments["predictions.npz"]
    done = lepton("model", "evaluation", "digits/6", "-d", tmp_path / "in")
    assert done.code == 2 and "'../out.png'" in done.err
    assert not (tmp_path / "out.png").exists()


def test_what_a_version_has_no_room_for_is_fetched(gateway: Gateway, lepton: Command) -> None:
    part = {"accuracy": 0.5, "left_out": ["slices"]}
    whole = json.dumps({"accuracy": 0.5, "slices": []}).encode()
    add(gateway, "8", part, evaluation__json=whole)
    assert lepton.json("model", "evaluation", "digits/8") == json.loads(whole)


def test_versions_are_compared(versions: Gateway, lepton: Command) -> None:
    """The same rows: 40 that the first alone has right."""
    done = lepton.ok("model", "compare", "digits/5", "digits/6", "--resamples", 200)
    heading, accuracy = done.out.splitlines()[:2]
    assert heading.split()[:4] == ["FIGURE", "FIRST", "SECOND", "DIFFERENCE"]
    assert accuracy.split()[:4] == ["test_accuracy", "0.9500", "0.7500", "-0.2000"]
    assert accuracy.split()[-3:] == ["0.0000", "mcnemar-exact", "first"]
    assert "on the same 200 test rows" in done.err and "first 40, second 0" in done.err
    found = lepton.json("model", "compare", "digits/5", "digits/6", "--resamples", 200)
    assert found["first"] == "models/digits/versions/5"
    assert (found["only_first_right"], found["only_second_right"]) == (40, 0)
    assert found["differences"][0]["p_value"] == pytest.approx(2**-39)
    assert {each["better"] for each in found["differences"]} == {"first"}


def test_a_worse_version_may_end_a_script(versions: Gateway, lepton: Command) -> None:
    """Where it was asked for, and with the result printed."""
    arguments = ("model", "compare", "digits/5", "digits/6", "--fail-if-worse", "--resamples", 200)
    done = lepton(*arguments)
    assert done.code == 1 and "test_accuracy" in done.out
    lepton.ok("model", "compare", "digits/6", "digits/5", "--fail-if-worse", "--resamples", 200)


def test_what_a_model_owes_to_its_columns(versions: Gateway, lepton: Command) -> None:
    lines = lepton.ok("model", "explain", "digits/5").out.splitlines()
    assert lines[0].split() == ["COLUMN", "FIGURE", "RISE", "90%", "INTERVAL", "ACCURACY"]
    assert lines[1].split() == [
        "age", "test_log_loss", "+0.2500", "0.2000", "to", "0.3000", "-0.1000"
    ]  # fmt: skip
    assert lepton.json("model", "explain", "digits/5") == EVALUATION["importance"]


def test_single_predictions_are_explained(versions: Gateway, lepton: Command) -> None:
    """A row of the test split each, its parts the largest first."""
    out = lepton.ok("model", "explain", "digits/5", "--rows").out
    assert out.splitlines() == [
        "row 17: predicted no, true yes; output 0.9000, baseline 0.4000",
        "PART  VALUE  ATTRIBUTION",
        "age   39     +0.6000",
        "sex   f      -0.1000",
    ]
    assert lepton.json("model", "explain", "digits/5", "--rows") == EXPLANATIONS["rows"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("compare digits/5 digits/7", 2, "cannot be compared: their test splits differ. Train"),
        (
            "compare digits/5 digits/1",
            2,
            "versions/1 has no predictions.npz; its attachments: none",
        ),
        ("compare digits/5 digits/99", 3, "models/digits/versions/99"),
        ("compare digits/5", 2, "Missing argument 'SECOND'"),
        ("compare digits/5 digits/6 --resamples 3", 2, "100<=x<=100000"),
        ("evaluation digits/1", 2, "has no evaluation: only models that a job trained have one"),
        ("explain digits/1", 2, "has no evaluation"),
        ("explain digits/9", 2, "has no importance of columns"),
        ("explain digits/6 --rows", 2, "versions/6 has no explanations.json"),
        (
            "compare digits/5 digits/9",
            2,
            "predictions.npz of models/digits/versions/9: it is damaged",
        ),
        ("explain digits/9 --rows", 2, "explanations.json of models/digits/versions/9 is damaged"),
        ("explain digits/10", 2, "evaluation of models/digits/versions/10 cannot be shown"),
        ("explain digits/10 --rows", 2, "versions/10 lacks what explains its rows"),
        ("explain digits/11 --rows", 2, "evaluation of models/digits/versions/11 cannot be shown"),
        ("evaluation digits/11", 2, "evaluation.json of models/digits/versions/11 is damaged"),
        ("compare digits/10 digits/11", 2, "versions/10 has no predictions.npz"),
    ],
)
def test_what_cannot_be_told_is_refused_plainly(
    words: str, code: int, told: str, versions: Gateway, lepton: Command
) -> None:
    damaged = {"predictions__npz": b"PK nonsense", "explanations__json": b"{"}
    add(versions, "9", {"accuracy": 0.5}, **damaged)
    strange = {"importance": [{"column": "age"}], "test_set": "none"}
    add(versions, "10", strange, explanations__json=b'{"rows": [{"row": 1}]}')
    unlike = {"rows": [EXPLANATIONS["rows"][0] | {"predicted": 3}]}
    files = {"explanations__json": json.dumps(unlike).encode(), "evaluation__json": b"[]"}
    add(versions, "11", {"accuracy": 0.5, "left_out": ["slices"]}, **files)
    done = lepton("model", *words.split())
    assert done.code == code and told in done.err and done.out == ""
    assert "Traceback" not in done.err
