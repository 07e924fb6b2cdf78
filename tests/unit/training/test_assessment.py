"""What is told of a trained model beside its figures: slices, importance, explanations, files."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lepton.evaluation import Predictions
from lepton_training.evaluation_settings import EvaluationSettings
from lepton_training.recipes import RECIPES
from lepton_training.recipes.data import SeriesShape, TableShape, TextShape
from lepton_training.spec import JobSpecInvalid
from lepton_training.worker.assessment import EXPLAINED, Assessment, assess
from lepton_training.worker.attributions import integrated_gradients
from lepton_training.worker.data.image_generation import SAMPLES_FILE
from lepton_training.worker.data.loading import load_problem
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.evaluation import evaluate_classes
from lepton_training.worker.pipeline import _publication
from lepton_training.worker.trainer import predict
from tests.training_jobs import PLAN, spec_of, trained

DOCS = Path(__file__).parents[3] / "docs"
PNG = b"\x89PNG\r\n"
TABLE = {"train": "train.csv", "test": "test.csv", "target": "wanted", "drop": ["sex"]}


def rows(count: int, seed: int) -> str:
    """Rows of ``yes`` where the number is above 0; of a column that says nothing; and one that is
    not looked at."""
    random = np.random.default_rng(seed)
    lines = ["x,noise,letter,sex,wanted"]
    for number in range(count):
        x, noise = random.normal(size=2)
        letter, sex = random.choice(["a", "b"]), "m" if number % 4 else "f"
        lines.append(f"{x:.3f},{noise:.3f},{letter},{sex},{'yes' if x > 0 else 'no'}")
    return "\n".join(lines)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "train.csv").write_text(rows(400, 0))
    (directory / "test.csv").write_text(rows(100, 1))
    return directory


def problem_of(directory: Path, settings: EvaluationSettings, **change: Any) -> Problem:
    spec = dataclasses.replace(spec_of(TABLE | change), evaluation=settings)
    return load_problem(directory, spec)


def assessed(directory: Path, problem: Problem, settings: EvaluationSettings) -> Assessment:
    network = trained(problem, spec_of(TABLE, epochs=6, batch_size=16, hidden=[16]))
    outputs = predict(network, problem.test, problem.objective, PLAN)
    return assess(directory, problem, outputs, settings, network=network, plan=PLAN, seed=0)


def test_a_table_is_assessed(table: Path, tmp_path: Path) -> None:
    """Slices also of a column that is not looked at; the column that counts is the most important;
    its explanations name it; and every file that is told of is there."""
    settings = EvaluationSettings(
        slices=["sex", {"column": "x", "bins": [-1, 1]}], small_slice=26, resamples=200
    )
    problem = problem_of(table, settings)
    found = assessed(tmp_path, problem, settings)
    document = json.loads((tmp_path / "evaluation.json").read_text())

    low, high = document["intervals"]["test_accuracy"]
    assert low <= document["accuracy"] <= high
    slices = {(part["column"], part["value"]): part for part in document["slices"]}
    assert set(slices) == {
        ("sex", "f"), ("sex", "m"), ("x", "< -1"), ("x", "[-1, 1)"), ("x", ">= 1")
    }  # fmt: skip
    assert (slices["sex", "f"]["rows"], slices["sex", "f"]["small"]) == (25, True)
    assert (slices["sex", "m"]["rows"], slices["sex", "m"]["small"]) == (75, False)
    assert slices["x", "< -1"]["metrics"]["test_accuracy"] == 1.0
    right = sum(
        slices["sex", sex]["metrics"]["test_accuracy"] * slices["sex", sex]["rows"]
        for sex in ("f", "m")
    )
    assert right / 100 == pytest.approx(document["accuracy"])
    assert set(slices["sex", "m"]["intervals"]) >= {"test_accuracy", "macro_f1", "roc_auc"}

    importance = {each["column"]: each for each in document["importance"]}
    assert next(iter(importance)) == "x" and set(importance) == {"x", "noise", "letter"}
    assert importance["x"]["interval"][0] > 0.5
    assert importance["x"]["accuracy_drop"] > 0.3
    assert abs(importance["letter"]["rise"]) < 0.1

    explained = json.loads((tmp_path / "explanations.json").read_text())["rows"]
    assert len(explained) == 8
    for row in explained:
        values = {part["name"]: part["attribution"] for part in row["parts"]}
        change = row["output"] - row["baseline"]
        assert sum(values.values()) == pytest.approx(
            change, abs=0.01 * max(abs(change), 0.01) + 1e-5
        )
        raw = next(part["value"] for part in row["parts"] if part["name"] == "x")
        assert float(raw) == pytest.approx(float(problem.raw_test["x"][row["row"], 0]), rel=1e-4)
    names = [row["parts"][0]["name"] for row in explained]
    assert names[4:].count("x") >= 3  # the worst are near the border, where x says little

    kept = Predictions.read((tmp_path / "predictions.npz").read_bytes())
    assert (kept.predicted == kept.truth).mean() == pytest.approx(document["accuracy"])
    assert kept.test_digest == document["test_set"]["digest"]
    assert set(found.attachments) == {
        "evaluation.json", "predictions.npz", "curves.json", "roc.png", "precision-recall.png",
        "reliability.png", "confusion.png", "explanations.json",
    }  # fmt: skip
    for name in found.attachments:
        content = (tmp_path / name).read_bytes()
        assert content.startswith(PNG) == name.endswith(".png") and len(content) > 100
    assert found.for_version() == found.document


def test_the_document_names_every_file_beside_a_model(table: Path, tmp_path: Path) -> None:
    """And its session says how many there are of two classes in a table."""
    settings = EvaluationSettings(resamples=0, importance_repeats=0)
    problem = problem_of(table, settings)
    assessment = assessed(tmp_path, problem, settings)
    publication = _publication(
        directory=tmp_path,
        request={"job": "jobs/j", "dataset_digest": ""},
        spec=spec_of(TABLE),
        problem=problem,
        assessment=assessment,
        parity={},
        metrics={},
    )
    document = (DOCS / "evaluation.md").read_text().partition("\n## Files\n")[2]
    cells = re.findall(r"^\| (`.*?) \|", document, re.MULTILINE)
    named = set(re.findall(r"`([^`]+)`", " ".join(cells)))
    assert publication.attachments.keys() <= named
    assert {SAMPLES_FILE, EXPLAINED, "predicted.png", "residuals.png"} <= named
    assert f"wrote {len(publication.attachments)} files to pictures\n" in document


def test_the_same_seed_gives_the_same_assessment(table: Path, tmp_path: Path) -> None:
    settings = EvaluationSettings(resamples=50)
    problem = problem_of(table, settings)
    first, again = (assessed(tmp_path, problem, settings) for _ in range(2))
    assert first.document == again.document


def test_numbers_are_assessed(tmp_path: Path) -> None:
    """A regression has pictures of its own, and its importance is of the RMSE."""
    lines = [f"{x},{x % 7},{3 * x + 1}" for x in range(200)]
    (tmp_path / "t.csv").write_text("\n".join(["x,other,y", *lines]))
    data = {"target": "y", "task": "regression"}
    spec = dataclasses.replace(
        spec_of(data, epochs=5, batch_size=16),
        evaluation=EvaluationSettings(slices=["other"], resamples=50, importance_repeats=2),
    )
    problem = load_problem(tmp_path, spec)
    network = trained(problem, spec)
    outputs = predict(network, problem.test, problem.objective, PLAN)
    found = assess(tmp_path, problem, outputs, spec.evaluation, network=network, plan=PLAN, seed=0)
    assert {"predicted.png", "residuals.png", "explanations.json"} < set(found.attachments)
    importance = found.document["importance"]
    assert [each["column"] for each in importance] == ["x", "other"]
    assert {each["metric"] for each in importance} == {"test_rmse"}
    assert importance[0]["accuracy_drop"] is None
    assert len(found.document["slices"]) == 7 and found.document["slices"][0]["small"]
    assert set(found.document["intervals"]) == {"test_mae", "test_rmse", "test_r2"}


@pytest.mark.parametrize(
    ("slices", "path", "message"),
    [
        (["age"], "spec.evaluation.slices[0]", "there is no column 'age'; known: x, noise, letter"),
        (
            ["sex", "x"],
            "spec.evaluation.slices[1]",
            "different numbers in the test split; give bins",
        ),
        ([{"column": "letter", "bins": [1]}], "spec.evaluation.slices[0]", "has no numbers"),
    ],
)
def test_a_slice_that_cannot_be_cut_is_a_fault_of_the_spec(
    slices: list[Any], path: str, message: str, table: Path
) -> None:
    """Found before anything is trained."""
    with pytest.raises(JobSpecInvalid) as caught:
        problem_of(table, EvaluationSettings(slices=slices))
    ((found, told),) = caught.value.faults
    assert found == path and message in told


def test_every_row_is_in_one_slice_of_a_column(tmp_path: Path) -> None:
    """Missing values, values that are no numbers, and rare ones too."""
    values = ["1", "5", "?", "x", " 5 ", *(f"v{n}" for n in range(60))]
    lines = [f"{n},{value},{'ab'[n % 2]}" for n, value in enumerate(values)]
    for name in ("t.csv", "v.csv"):
        (tmp_path / name).write_text("\n".join(["n,v,y", *lines]))
    data = {"test": "v.csv", "train": "t.csv", "target": "y"}
    for wanted in ("v", {"column": "v", "bins": [5.0]}):
        spec = dataclasses.replace(spec_of(data), evaluation=EvaluationSettings(slices=[wanted]))
        slices = {part.value: part.rows.tolist() for part in load_problem(tmp_path, spec).slices}
        assert sorted(row for part in slices.values() for row in part) == list(range(65))
        assert slices["(missing)"] == [2]
        if wanted == "v":
            assert slices["5"] == [1, 4] and len(slices["(others)"]) == 63 - 50
        else:
            assert (slices["< 5"], slices[">= 5"]) == ([0], [1, 4])
            assert len(slices["(not a number)"]) == 61


def test_the_test_split_is_known_by_its_rows(table: Path) -> None:
    """Whatever columns a model looks at; another value is another split."""
    settings = EvaluationSettings()
    digest = problem_of(table, settings).test_digest
    assert problem_of(table, settings, drop=["noise"], scaling="standard").test_digest == digest
    path = table / "test.csv"
    path.write_text(path.read_text().replace(",a,", ",b,", 1))
    assert problem_of(table, settings).test_digest != digest


def test_a_version_holds_what_the_registry_takes() -> None:
    """Of many classes the large parts are in the file only, and named."""
    truth = np.arange(600) % 300
    found = evaluate_classes(truth, np.full((600, 300), 1 / 300, np.float32))
    assert found.confusion_matrix == () and len(found.confusions) == 100
    assert found.confusions[0] == dataclasses.replace(found.confusions[0], predicted=0, examples=2)
    document = found.to_dict() | {"slices": [{"column": "c" * 1000}] * 300}
    assessment = Assessment(found, document, ())
    part = assessment.for_version()
    assert part["left_out"] == ["slices"] and "slices" not in part
    assert len(json.dumps(part)) < 256 * 1024


NETWORKS: dict[str, tuple[Any, Any, Any]] = {
    "tabular": (
        {"hidden": [8]},
        TableShape(3, (4, 5), 2),
        (torch.rand(1, 3), torch.tensor([[1, 2]])),
    ),
    "series_rnn": ({"hidden": 8}, SeriesShape(5, 2, 1), (torch.randn(1, 5, 2),)),
    "text_bag": (
        {"dimensions": 8, "buckets": 50},
        TextShape(20, 2),
        (torch.tensor([[2, 3, 2, 3, 9, 0, 0]]),),
    ),
    "text_rnn": ({"dimensions": 8, "hidden": 8}, TextShape(20, 2), (torch.tensor([[2, 3, 9, 0]]),)),
    "text_transformer": (
        {"dimensions": 8, "heads": 2, "layers": 1},
        TextShape(20, 2),
        (torch.tensor([[2, 3, 9, 0]]),),
    ),
}


@pytest.mark.parametrize("recipe", NETWORKS)
def test_attributions_add_up(recipe: str) -> None:
    """To the change of the output from the baseline: completeness, for every kind of network;
    and a network in two parts is the network."""
    settings, shape, inputs = NETWORKS[recipe]
    torch.manual_seed(1)
    found = RECIPES[recipe]
    network = found.build(found.hyperparameters(**settings), shape).eval()
    for parameter in network.parameters():  # far from linear, and a last layer that is not zero
        torch.nn.init.normal_(parameter, std=0.7)
    embedded = network.embed(*inputs) if hasattr(network, "embed") else inputs[0]

    def output(points: torch.Tensor) -> torch.Tensor:
        if hasattr(network, "embed"):
            others = tuple(tensor.expand(len(points), *tensor.shape[1:]) for tensor in inputs)
            return network.decide(points, *others)[:, 0]
        return network(points)[:, 0]

    with torch.no_grad():
        assert torch.allclose(output(embedded.detach()), network(*inputs)[:, 0], atol=1e-6)
    point = embedded[0].detach()
    attributions, steps = integrated_gradients(output, point, torch.zeros_like(point))
    with torch.no_grad():
        change = output(point[None]) - output(torch.zeros_like(point)[None])
    assert float(attributions.sum()) == pytest.approx(
        float(change), abs=0.011 * max(abs(float(change)), 0.01)
    )
    assert 64 <= steps < 1024
    if hasattr(network, "spread"):
        each = network.spread(inputs[0], attributions)
        assert float(each.sum()) == pytest.approx(float(attributions.sum()), abs=1e-4)
        assert each.shape == (7,) and each[0] != 0


def test_integrated_gradients_of_a_product() -> None:
    """x * y from 0: both have half, whatever they are."""
    found, _ = integrated_gradients(
        lambda points: points[:, 0] * points[:, 1], torch.tensor([2.0, 3.0]), torch.zeros(2)
    )
    assert found.tolist() == pytest.approx([3.0, 3.0])


def test_pictures_that_cannot_be_drawn_cost_no_model(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no fonts")

    monkeypatch.setattr("lepton_training.worker.plots.draw", fail)
    settings = EvaluationSettings(resamples=0, importance_repeats=0, explanations=0)
    found = assessed(tmp_path, problem_of(table, settings), settings)
    assert found.attachments == ("evaluation.json", "predictions.npz")
    assert found.document["intervals"] == {} and "importance" not in found.document
