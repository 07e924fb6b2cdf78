"""Tables: cleaned with reasons, prepared by what training rows say, served raw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from lepton_training.spec import JobSpecInvalid
from lepton_training.worker.data.idx import DatasetInvalid
from lepton_training.worker.data.loading import load_problem
from lepton_training.worker.preprocessing import Preprocessor
from lepton_training.worker.trainer import predict
from tests.training_jobs import PLAN, exported, spec_of, trained


def rows(count: int, seed: int) -> list[str]:
    """Rows of the class ``yes`` when the number is large or the letter is b."""
    random = np.random.default_rng(seed)
    lines = []
    for number, letter in zip(
        random.normal(size=count), random.choice(["a", "b"], count), strict=True
    ):
        wanted = "yes" if number + 2 * (letter == "b") > 1 else "no"
        lines.append(f"{number:.3f}, {letter}, {wanted}")
    return lines


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """400 rows to train on and 100 to test with, in files of their own."""
    (tmp_path / "train.csv").write_text("\n".join(["x,letter,wanted", *rows(400, 0)]))
    (tmp_path / "test.csv").write_text("\n".join(["x,letter,wanted", *rows(100, 1)]))
    return tmp_path


def test_a_table_is_learnt_and_served_raw(table: Path, tmp_path: Path) -> None:
    """From text to the class of a raw row; the served model agrees with the trained one."""
    data = {"train": "train.csv", "test": "test.csv", "target": "wanted"}
    spec = spec_of(data, epochs=12, batch_size=16, learning_rate=5e-3, hidden=[16])
    problem = load_problem(table, spec)
    assert problem.class_names == ("no", "yes")
    network = trained(problem, spec)
    probabilities = predict(network, problem.test, problem.objective, PLAN)
    found = problem.objective.evaluate(problem.test.targets.numpy(), probabilities)
    assert found.metrics()["test_accuracy"] > 0.9

    assert exported(tmp_path / "export", problem, spec, network)["agrees"]
    session = onnxruntime.InferenceSession(tmp_path / "export" / "model.onnx")
    described = {i.name: (i.type, i.shape) for i in session.get_inputs()}
    assert described == {
        "x": ("tensor(float)", ["batch", 1]),
        "letter": ("tensor(string)", ["batch", 1]),
    }
    raw = {
        "x": np.array([[3.0], [-3.0], [np.nan]], np.float32),
        "letter": np.array([["b"], ["a"], ["never seen"]], object),
    }
    (answer,) = session.run(None, raw)
    assert answer.argmax(1).tolist()[:2] == [1, 0]
    assert np.isfinite(answer).all()


def test_rows_that_cannot_be_used_are_counted_by_reason(tmp_path: Path) -> None:
    """Neither silently dropped nor trained on."""
    (tmp_path / "t.csv").write_text(
        "\n".join(["1;a;yes.", "2;?;no", "x;a;no", "3;a", "4;b;?", "5;a;no", "inf;a;no"] * 3)
    )
    (tmp_path / "v.csv").write_text("1;a;yes\n2;a;perhaps\n")
    settings = {
        "train": "t.csv",
        "test": "v.csv",
        "header": ["n", "c", "y"],
        "separator": ";",
        "target": "y",
        "target_strip": ".",
        "numbers": ["n"],
        "max_invalid_fraction": 0.6,
    }
    problem = load_problem(tmp_path, spec_of(settings))
    splits = problem.report["cleaning"]["splits"]
    assert splits["train"] == {
        "read": 21,
        "kept": 9,
        "left_out": 12,
        "reasons": [
            {"reason": "n: not a number", "count": 6, "example": "t.csv line 3"},
            {"reason": "not 3 fields", "count": 3, "example": "t.csv line 4"},
            {"reason": "y: missing", "count": 3, "example": "t.csv line 5"},
        ],
    }
    assert splits["test"]["reasons"] == [
        {
            "reason": "y: not a class of the training split",
            "count": 1,
            "example": "v.csv line 2",
        }
    ]
    assert problem.class_names == ("no", "yes")
    assert (len(problem.train), len(problem.test)) == (9, 1)


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ("none", [1.0, 9.0, 3.0]),
        ("minmax", [0.0, 2.0, 0.5]),
        ("symmetric", [-1.0, 3.0, 0.0]),
        ("standard", [-np.sqrt(2), 6 / np.sqrt(2), 0.0]),
    ],
)
def test_numbers_are_scaled_by_training_rows(
    scaling: str, expected: list[float], tmp_path: Path
) -> None:
    """Training has 1 to 5 and a gap: its median stands for a gap, which the network is told of."""
    lines = ["x,y", "1,a", "2,b", "3,a", "4,b", "5,a", "?,b"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    (tmp_path / "v.csv").write_text("x,y\n100,a\n")  # of no effect
    settings = {"train": "t.csv", "test": "v.csv", "target": "y", "scaling": scaling}
    problem = load_problem(tmp_path, spec_of(settings))
    assert problem.preprocessing is not None
    (found,) = Preprocessor(problem.preprocessing)(
        {"x": np.array([[1], [9], [np.nan]], np.float32)}
    )
    if scaling == "standard":  # the gap's 3 counts
        expected = [value * np.sqrt(2) / np.std([1, 2, 3, 3, 4, 5]) for value in expected]
    assert found[:, 0] == pytest.approx(expected)
    assert found[:, 1].tolist() == [0, 0, 1]
    assert problem.report["numbers"]["x"]["imputed"] == 3


@pytest.mark.parametrize(
    ("settings", "stands"),
    [
        ({"impute": "median"}, 2.0),
        ({"impute": "mean"}, 2.4),
        ({"impute": "most_frequent"}, 1.0),
        ({"impute": "constant", "impute_value": -7.5}, -7.5),
        ({"impute": "zero"}, 0.0),
    ],
)
def test_missing_numbers_have_a_stand_in(
    settings: dict[str, Any], stands: float, tmp_path: Path
) -> None:
    """Of training rows; the served graph has it."""
    lines = ["x,y", "1,a", "1,b", "2,a", "3,b", "5,a", "?,b"]
    for name in ("t.csv", "v.csv"):
        (tmp_path / name).write_text("\n".join(lines))
    data = {"target": "y", "train": "t.csv", "test": "v.csv", "scaling": "none", **settings}
    problem = load_problem(tmp_path, spec_of(data))
    assert problem.preprocessing is not None
    (found,) = Preprocessor(problem.preprocessing)({"x": np.array([[np.nan]], np.float32)})
    assert found[0].tolist() == pytest.approx([stands, 1])


def test_missing_categories_may_count_as_the_commonest(tmp_path: Path) -> None:
    """Of training rows; else they are a category of their own."""
    for name in ("t.csv", "v.csv"):
        (tmp_path / name).write_text("\n".join(["c,y", *["red,a", "blue,b", "red,b", "?,a"] * 5]))
    codes = {}
    for how in ("own", "most_frequent"):
        data = {"target": "y", "train": "t.csv", "test": "v.csv", "impute_category": how}
        problem = load_problem(tmp_path, spec_of(data))
        assert problem.preprocessing is not None
        given = np.array([["?"], ["red"], ["blue"]], object)
        codes[how] = Preprocessor(problem.preprocessing)({"c": given})[0][:, 0].tolist()
    assert codes == {"own": [1, 3, 2], "most_frequent": [3, 3, 2]}


def test_quantiles_are_places_between_training_values(tmp_path: Path) -> None:
    """One feature a piece: below it 0, above it 1, inside it the share."""
    lines = ["x,y", *(f"{value},{'ab'[value % 2]}" for value in range(101))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    problem = load_problem(tmp_path, spec_of({"target": "y", "bins": 4, "test_share": 0.01}))
    assert problem.preprocessing is not None
    values = np.array([[-5], [0], [50], [1000]], np.float32)
    (found,) = Preprocessor(problem.preprocessing)({"x": values})
    assert found.shape == (4, 4)
    assert found[0].tolist() == found[1].tolist() == [0, 0, 0, 0]
    assert found[2].sum() == pytest.approx(2, abs=0.1)
    assert found[3].tolist() == [1, 1, 1, 1]


def test_categories_are_those_of_training(tmp_path: Path) -> None:
    """Rare and new ones are unknown; missing ones are not; spaces count for nothing."""
    lines = ["c,y", *["red, a", " blue,b", "?,a"] * 5, "rare,b"]
    for name in ("t.csv", "v.csv"):
        (tmp_path / name).write_text("\n".join(lines))
    problem = load_problem(tmp_path, spec_of({"target": "y", "train": "t.csv", "test": "v.csv"}))
    assert problem.preprocessing is not None
    given = [["red"], ["blue"], [" blue"], ["?"], [""], ["rare"], ["new"]]
    (codes,) = Preprocessor(problem.preprocessing)({"c": np.array(given, object)})
    assert codes[:, 0].tolist() == [3, 2, 2, 1, 1, 0, 0]
    assert problem.shape.categories == (4,)


def test_a_number_is_predicted_in_its_own_unit(tmp_path: Path) -> None:
    """Regression: the target is standardized in training alone."""
    random = np.random.default_rng(0)
    values = random.uniform(-1, 1, 400)
    lines = ["x,y", *(f"{x:.4f},{1000 + 50 * x:.3f}" for x in values)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    spec = spec_of(
        {"target": "y", "task": "regression"}, epochs=20, batch_size=16, loss="huber", dropout=0
    )
    problem = load_problem(tmp_path, spec)
    assert problem.outputs[0].name == "values"
    network = trained(problem, spec)
    predicted = predict(network, problem.test, problem.objective, PLAN)
    figures = problem.objective.evaluate(problem.test.targets.numpy(), predicted).metrics()
    assert figures["test_rmse"] < 0.2 * figures["mean_rmse"]
    assert figures["test_r2"] > 0.95


@pytest.mark.parametrize(
    ("files", "data", "message"),
    [
        ({"t.csv": "x,y\n1,a\n"}, {"target": "z"}, "no column 'z'"),
        ({"t.csv": "x,y\n1,a\n2,a\n3,a\n"}, {"target": "y"}, "has 1 class; training needs 2"),
        ({"t.csv": "x,y\n1,a\n"}, {"target": "y", "train": "u.csv"}, "no file for data.train"),
        ({"t.csv": "x,y\n1,a\n"}, {"target": "y", "test": "u.csv"}, "no file for data.test"),
        ({"t.csv": "1,1\n"}, {"target": "y"}, "data.header"),
        ({"t.csv": b"\xff\xfe,\n"}, {"target": "y"}, "not UTF-8"),
        ({"t.csv": "x,y\n"}, {"target": "y"}, "no rows"),
        ({"a.csv": "x,y\n1,a\n", "b.csv": "x,z\n1,a\n"}, {"target": "y"}, "must be the same"),
        ({"t.parquet": b"PAR?"}, {"target": "y"}, "not a Parquet file"),
        (
            {"t.csv": "a,b,y\n1,p,u\n2,q,v\n" * 3, "v.csv": "a,y\n1,u\n"},
            {"target": "y", "test": "v.csv"},
            "the test split has no column 'b', which training has; it has a, y",
        ),
        (
            {"t.csv": ",".join(f"c{n}" for n in range(30)) + "\n" + ",".join("1" * 30)},
            {"target": "z"},
            "c18, c19 and 10 more",
        ),
    ],
)
def test_what_is_wrong_with_a_table_is_said(
    files: dict[str, Any], data: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """With the file or the setting."""
    for name, content in files.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DatasetInvalid) as caught:
        load_problem(tmp_path, spec_of(data))
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("data", "hyperparameters", "paths"),
    [
        ({}, {}, ["spec.data.target"]),
        ({"target": "y", "test": "t", "test_share": 0.1}, {}, ["spec.data.test_share"]),
        ({"target": "y", "scaling": "none", "bins": 4}, {}, ["spec.data.bins"]),
        ({"target": "y", "impute_value": 1.0}, {}, ["spec.data.impute_value"]),
        ({"target": "y", "drop": ["y"]}, {}, ["spec.data.drop"]),
        ({"target": "y", "header": ["x"]}, {}, ["spec.data.target"]),
        ({"target": "y"}, {"loss": "mae"}, ["spec.hyperparameters.loss"]),
        (
            {"target": "y", "task": "regression"},
            {"loss": "bce", "balanced": True},
            ["spec.hyperparameters.loss", "spec.hyperparameters.balanced"],
        ),
        ({"target": 3}, {"hidden": [0]}, ["spec.hyperparameters.hidden", "spec.data.target"]),
        ({"target": "y"}, {"hidden": [8.5]}, ["spec.hyperparameters.hidden.0"]),
    ],
)
def test_settings_that_do_not_go_together_are_faults(
    data: dict[str, Any], hyperparameters: dict[str, Any], paths: list[str]
) -> None:
    """All of them are told, before any file is read."""
    with pytest.raises(JobSpecInvalid) as caught:
        spec_of(data, **hyperparameters)
    assert [fault.path for fault in caught.value.faults] == paths


def test_parquet_is_read_like_text(tmp_path: Path) -> None:
    """Numbers, text and gaps."""
    import pyarrow
    import pyarrow.parquet

    columns = {"x": [1.0, None, 3.0] * 4, "c": ["a", "b", None] * 4, "y": ["no", "yes", "no"] * 4}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    problem = load_problem(tmp_path, spec_of({"target": "y"}))
    assert {tensor.name: tensor.datatype for tensor in problem.inputs} == {
        "x": "FP32",
        "c": "BYTES",
    }


def test_further_columns_of_the_test_split_do_not_matter(tmp_path: Path) -> None:
    """What training does not have is no input of what is served."""
    (tmp_path / "t.csv").write_text("\n".join(["x,y", *(f"{n},{'ab'[n % 2]}" for n in range(40))]))
    (tmp_path / "v.csv").write_text("y,more,x\na,?,1\nb,2,2\n")
    spec = spec_of({"target": "y", "test": "v.csv"}, epochs=1, batch_size=8)
    problem = load_problem(tmp_path, spec)
    assert [tensor.name for tensor in problem.inputs] == list(problem.raw_rows) == ["x"]
    assert exported(tmp_path / "export", problem, spec, trained(problem, spec))["agrees"]


@pytest.mark.parametrize("wrong", ["1e39", "-1e300", "inf", "nan ", "x"])
def test_numbers_are_those_that_networks_count_with(tmp_path: Path, wrong: str) -> None:
    """What FP32 does not have would be infinite, and all losses with it."""
    lines = ["x,y", *(f"{n},{'ab'[n % 2]}" for n in range(40)), f"{wrong},a", "3e38,a"]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    (tmp_path / "v.csv").write_text("x,y\n1,a\n2,b\n")
    data = {"target": "y", "test": "v.csv", "numbers": ["x"], "missing": [""]}
    problem = load_problem(tmp_path, spec_of(data))
    (reason,) = problem.report["cleaning"]["splits"]["train"]["reasons"]
    assert (reason["reason"], reason["count"]) == ("x: not a number", 1)
    assert bool(problem.train.inputs(slice(None))[0].isfinite().all())


def test_a_field_may_be_long(tmp_path: Path) -> None:
    """A text of a table is one field."""
    texts = ["good " * 60_000, "bad " * 60_000]
    lines = ["text,label", *(f"{texts[n % 2]},{'ab'[n % 2]}" for n in range(8))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    problem = load_problem(tmp_path, spec_of({"max_length": 5}, "text_bag"))
    assert len(problem.train) + len(problem.test) == 8
