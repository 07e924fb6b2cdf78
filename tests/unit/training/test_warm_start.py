"""Beginning with a registered version: its weights, its codes, and what it must still know."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lepton_training.ports import ModelVersion
from lepton_training.recipes import RECIPES
from lepton_training.spec import JobSpec, JobSpecInvalid, parse_spec
from lepton_training.warm_origin import check_origin
from lepton_training.worker.data.fitted import WarmStartMismatch
from lepton_training.worker.data.loading import load_problem
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.warm_start import (
    Forgotten,
    Retention,
    WarmStart,
    fitted_of,
    papers,
    worse_by,
)
from tests.training_jobs import PLAN, spec_of, trained

VERSION = "models/m/versions/3"
TABLE = {"target": "kind", "test_share": 0.25}
TEXTS = {"target": "label", "test_share": 0.25}


def write_rows(directory: Path, rows: list[str], header: str = "size,color,kind") -> Path:
    directory.mkdir(parents=True)
    (directory / "rows.csv").write_text("\n".join([header, *rows]) + "\n")
    return directory


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """Red things are apples, green ones pears, whatever their size."""
    rows = [
        f"{size},{color},{kind}"
        for size in range(40)
        for color, kind in (("red", "apple"), ("green", "pear"))
    ]
    return write_rows(tmp_path / "old", rows)


@dataclasses.dataclass
class Directories:
    """``Platform`` whose artifacts and datasets are paths."""

    datasets: dict[str, Path]

    def fetch_artifact(self, name: str, sha256: str, target: Path) -> None:
        target.write_bytes(Path(name).read_bytes())

    def fetch_dataset(self, version: str, directory: Path) -> None:
        directory.mkdir()
        for path in self.datasets[version].iterdir():
            (directory / path.name).write_bytes(path.read_bytes())


def warm_spec(data: dict[str, Any], *, warm: dict[str, Any], **values: Any) -> JobSpec:
    document = spec_of(data, **values).to_dict()
    return parse_spec(document | {"warm_start": {"model_version": VERSION} | warm}, cores=1)


def registered(
    directory: Path, spec: JobSpec, problem: Problem, network: torch.nn.Module
) -> dict[str, tuple[str, str]]:
    """The files of the version that a job of ``spec`` left, as a later job is told of them."""
    directory.mkdir()
    torch.save(network.state_dict(), directory / "weights.pt")
    (directory / "training.json").write_text(json.dumps(papers(spec, problem)))
    if problem.preprocessing is not None:
        (directory / "preprocessing.onnx").write_bytes(problem.preprocessing)
    return {path.name: (str(path), "0" * 64) for path in directory.iterdir()}


def begun(
    tmp_path: Path, old: Path, spec: JobSpec, data: dict[str, Any], **values: Any
) -> tuple[torch.nn.Module, WarmStart]:
    """What a job on ``old`` trained, and what one of ``spec`` begins with."""
    before = spec_of(data, **values)
    problem = load_problem(old, before)
    network = trained(problem, before)
    files = registered(tmp_path / "version", before, problem, network)
    warm = WarmStart.fetch(Directories({}), tmp_path, spec, files)
    assert warm is not None
    return network, warm


def test_categories_keep_their_codes(tmp_path: Path, old: Path) -> None:
    """Colors that sort otherwise in the new rows mean what they meant; so does the scale."""
    spec = warm_spec(TABLE, warm={}, epochs=4, batch_size=8)
    network, warm = begun(tmp_path, old, spec, TABLE, epochs=4, batch_size=8)
    rows = [f"{size},{color},pear" for size in range(500, 520) for color in ("amber", "green")]
    problem = load_problem(write_rows(tmp_path / "new", rows), spec, warm.fitted)
    again = RECIPES["tabular"].build(spec.hyperparameters, problem.shape)
    warm.load_into(again)
    assert problem.class_names == ("apple", "pear")
    assert all(
        torch.equal(value, again.state_dict()[name]) for name, value in network.state_dict().items()
    )
    codes = problem.train.inputs(slice(None))[1][:, 0]
    assert set(codes.tolist()) == {0, 2}, "amber is unknown, green the first of two"


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("size,color,kind", "1,red,plum", "does not know 1 class of the dataset: 'plum'"),
        ("size,kind", "1,pear", "lacks color"),
        ("size,color,age,kind", "1,red,2,pear", "has also age"),
    ],
    ids=["class", "missing column", "further column"],
)
def test_what_the_version_does_not_know_is_told(
    tmp_path: Path, old: Path, header: str, row: str, message: str
) -> None:
    """By name, before anything is trained."""
    before = spec_of(TABLE)
    fitted = fitted_of(VERSION, before, load_problem(old, before))
    new = write_rows(tmp_path / "new", [row.replace("1,", f"{n},", 1) for n in range(20)], header)
    with pytest.raises(WarmStartMismatch, match=message):
        load_problem(new, before, fitted)


def test_weights_that_do_not_fit_are_listed(tmp_path: Path, old: Path) -> None:
    """Or begin anew where that was asked for: new classes on what is known of the columns."""
    spec = warm_spec(TABLE, warm={}, epochs=1, batch_size=8)
    _, warm = begun(tmp_path, old, spec, TABLE, epochs=1, batch_size=8)
    rows = [f"{n},red,{kind}" for n in range(10) for kind in ("fig", "pear", "plum")]
    new = write_rows(tmp_path / "new", rows)
    partial = dataclasses.replace(
        warm, partial=True, fitted=dataclasses.replace(warm.fitted, class_names=())
    )
    problem = load_problem(new, spec, partial.fitted)
    assert problem.class_names == ("fig", "pear", "plum")
    network = RECIPES["tabular"].build(spec.hyperparameters, problem.shape)
    with pytest.raises(WarmStartMismatch, match=r"\[2, \d+\] there, \[3, \d+\] here"):
        warm.load_into(network)
    anew = {name: value.clone() for name, value in network.state_dict().items()}
    partial.load_into(network)
    taken = {n for n, v in network.state_dict().items() if not torch.equal(v, anew[n])}
    assert taken
    assert all(torch.equal(network.state_dict()[name], warm.weights[name]) for name in taken)
    assert {n for n, v in warm.weights.items() if v.shape != anew[n].shape}.isdisjoint(taken)


def test_tokens_keep_their_codes(tmp_path: Path) -> None:
    """Whatever words the new texts have."""
    texts = [f"{word} thing {n},{word}" for n in range(10) for word in ("good", "bad")]
    old = write_rows(tmp_path / "old", texts, "text,label")
    spec = spec_of(TEXTS, recipe="text_bag")
    problem = load_problem(old, spec)
    fitted = fitted_of(VERSION, spec, problem)
    new = write_rows(tmp_path / "new", [f"aardvark bad {n},bad" for n in range(10)], "text,label")
    again = load_problem(new, spec, fitted)
    assert (again.shape, again.class_names) == (problem.shape, ("bad", "good"))
    assert (again.preprocessing, again.tokens) == (problem.preprocessing, problem.tokens)


def test_a_forecast_keeps_its_scale(tmp_path: Path) -> None:
    """Mean and deviation are those of the older series; other windows are refused."""
    data = {"target": "value", "window": 4, "test_share": 0.25}
    header = "value"
    old = write_rows(tmp_path / "old", [str(n % 7) for n in range(80)], header)
    new = write_rows(tmp_path / "new", [str(100 + n % 5) for n in range(80)], header)
    spec = spec_of(data, recipe="series_rnn")
    problem = load_problem(old, spec)
    again = load_problem(new, spec, fitted_of(VERSION, spec, problem))
    assert again.objective.activation == problem.objective.activation
    targets = again.test.targets.numpy()
    assert again.objective.evaluate(targets, targets).metrics()["mean_rmse"] < 3
    assert again.shape == problem.shape
    wide = spec_of(data | {"window": 5}, recipe="series_rnn")
    with pytest.raises(WarmStartMismatch, match="windows of 4 steps and 1 columns"):
        load_problem(new, wide, fitted_of(VERSION, spec, problem))


def test_the_mean_to_compare_with_is_of_the_new_rows(tmp_path: Path) -> None:
    """What the older model standardizes by says nothing of them."""
    data = {"target": "y", "task": "regression"}
    spec = spec_of(data)
    old, new = (
        write_rows(tmp_path / name, [f"{n},{first + n % 5}" for n in range(60)], "x,y")
        for name, first in (("old", 0), ("new", 1000))
    )
    fitted = fitted_of(VERSION, spec, load_problem(old, spec))
    problem = load_problem(new, spec, fitted)
    assert problem.objective.activation.shift == fitted.mean
    targets = problem.test.targets.numpy()
    figures = problem.objective.evaluate(targets, targets).metrics()
    wrong = targets - problem.train.targets.numpy().mean()
    assert figures["mean_rmse"] == pytest.approx(float(np.sqrt((wrong**2).mean())), rel=1e-4)


def test_images_keep_the_numbers_of_their_classes(stripes: Path) -> None:
    """Also where the new ones lack some."""
    spec = spec_of({}, recipe="mlp")
    problem = load_problem(stripes, spec)
    wider = dataclasses.replace(fitted_of(VERSION, spec, problem), class_names=("2", "1", "0"))
    again = load_problem(stripes, spec, wider)
    assert again.class_names == ("2", "1", "0")
    assert again.outputs[0].shape == (-1, 3)
    np.testing.assert_array_equal(again.train.targets, 2 - problem.train.targets)


@pytest.mark.parametrize("forgets", [True, False])
def test_a_model_that_forgot_is_not_registered(tmp_path: Path, old: Path, forgets: bool) -> None:
    """Its figure on the older data is measured before and after, and compared."""
    retain = {"dataset": "datasets/old/versions/1", "max_drop": 0.1}
    spec = warm_spec(TABLE, warm={"retain": retain}, epochs=8, batch_size=8, learning_rate=0.02)
    network, warm = begun(tmp_path, old, spec, TABLE, epochs=8, batch_size=8, learning_rate=0.02)
    problem = load_problem(old, spec)
    platform = Directories({"datasets/old/versions/1": old})
    retention = Retention.begin(
        platform, tmp_path, spec, problem=problem, network=network, plan=PLAN, warm=warm
    )
    assert retention is not None
    if forgets:
        with torch.no_grad():
            for value in network.parameters():
                value.neg_()
                value.zero_()
        with pytest.raises(Forgotten, match=r"test_accuracy on datasets/old/versions/1 was 1\.0"):
            retention.check(network)
    else:
        assert retention.check(network) == {
            "retained_test_accuracy_before": 1.0,
            "retained_test_accuracy": 1.0,
        }


@pytest.mark.parametrize(
    ("data", "seed", "same"),
    [(TABLE, 0, True), (TABLE, 1, False), (TABLE | {"test_share": 0.5}, 0, False)],
    ids=["same", "other seed", "other share"],
)
def test_what_is_retained_is_measured_on_rows_that_were_not_trained_on(
    tmp_path: Path, old: Path, data: dict[str, Any], seed: int, same: bool
) -> None:
    """Rows held out by another seed, or more of them, the version knows by heart."""
    dataset = "datasets/d/versions/1"
    spec = warm_spec(data, warm={"retain": {"dataset": dataset}}, epochs=1, batch_size=8)
    spec = dataclasses.replace(spec, seed=seed)
    network, warm = begun(tmp_path, old, spec, TABLE, epochs=1, batch_size=8)
    problem = load_problem(old, spec, warm.fitted)

    def begin() -> Retention | None:
        platform = Directories({dataset: old})
        return Retention.begin(
            platform, tmp_path, spec, problem=problem, network=network, plan=PLAN, warm=warm
        )

    if same:
        assert begin() is not None
    else:
        with pytest.raises(WarmStartMismatch, match="not the one that models/m/versions/3 was"):
            begin()


@pytest.mark.parametrize(
    ("name", "before", "after", "worse"),
    [
        ("test_accuracy", 0.9, 0.8, 0.1),
        ("test_accuracy", 0.8, 0.9, -0.1),
        ("test_rmse", 2.0, 3.0, 0.5),
        ("test_rmse", 0.0, 0.25, 0.25),
    ],
)
def test_what_is_worse(name: str, before: float, after: float, worse: float) -> None:
    """A difference of shares; a share of errors, which are better when they are lower."""
    assert worse_by(name, before, after) == pytest.approx(worse)


FILES = {"weights.pt": "artifacts/w", "training.json": "artifacts/t"}


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (ModelVersion(VERSION, "mlp", "", {}), "has no weights to begin with"),
        (ModelVersion(VERSION, "", "", FILES), "was not trained by a recipe"),
        (ModelVersion(VERSION, "tabular", "", FILES), "'mlp' trains on images"),
    ],
)
def test_a_version_that_is_no_beginning_is_refused(version: ModelVersion, message: str) -> None:
    """When the job is made."""
    with pytest.raises(JobSpecInvalid, match=message):
        check_origin(version, "mlp")


@pytest.mark.parametrize(
    ("warm", "path", "message"),
    [
        ({"model_version": "digits/1"}, "model_version", "models/<model>/versions/<n>"),
        ({"partial": "no"}, "partial", "true or false"),
        ({"retain": {"max_drop": 2}}, "retain.max_drop", "not between 0 and 1"),
        ({"retain": {"dataset": "old"}}, "retain.dataset", "not a dataset version"),
        ({"retain": {}, "partial": True}, "retain", "cannot be given with partial"),
        ({"keep": {}}, "keep", "unknown field"),
    ],
)
def test_a_fault_of_the_spec(warm: dict[str, Any], path: str, message: str) -> None:
    """Names its path and the remedy."""
    with pytest.raises(JobSpecInvalid) as caught:
        warm_spec(TABLE, warm=warm)
    assert [fault.path for fault in caught.value.faults] == [f"spec.warm_start.{path}"]
    assert message in caught.value.faults[0].message


def test_a_spec_with_a_warm_start_survives_its_record() -> None:
    """What is stored is read back the same."""
    spec = warm_spec(TABLE, warm={"retain": {"max_drop": 0.25}})
    assert parse_spec(spec.to_dict(), cores=1) == spec
