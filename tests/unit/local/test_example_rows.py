"""The raw test rows of examples are those that jobs are evaluated on, and figures are the same."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lepton.api.registry.v1 import registry_pb2
from lepton_local.demo.dataset import FILES, write_digits
from lepton_local.examples import rows
from lepton_training.spec import JobSpec, parse_spec
from lepton_training.worker.data.loading import load_problem
from lepton_training.worker.data.problem import Problem

RANDOM = np.random.default_rng(0)


def _digits(folder: Path) -> None:
    write_digits(folder, limit=60)


def _table(folder: Path) -> None:
    """No line of names, a missing number, spaces as in UCI's files, and a full stop in the test."""
    for name, end in (("train.csv", ""), ("test.csv", ".")):
        lines = [
            f"{age if age % 7 else '?'}, {('Private', 'State-gov', '?')[age % 3]}, "
            f"{'>50K' if age % 2 else '<=50K'}{end}"
            for age in range(20, 80)
        ]
        (folder / name).write_text("\n".join([*lines, "", "1, 2"]))


def _texts(folder: Path) -> None:
    """One that is not UTF-8, in an archive whose order is not that of the names."""
    with tarfile.open(folder / "texts.tar.gz", "w:gz") as tar:
        for number in (3, 1, 2, *range(4, 25)):
            content = f"text {number} caf\xe9".encode("latin-1" if number == 3 else "utf-8")
            member = tarfile.TarInfo(f"all/{'pos' if number % 2 else 'neg'}/{number}.txt")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _series(folder: Path) -> None:
    values = RANDOM.normal(size=80).round(2)
    lines = [f'"2020-0{1 + day // 28}-{1 + day % 28:02}",{v}' for day, v in enumerate(values)]
    (folder / "series.csv").write_text("\n".join(['"Date","Temp"', *lines]))


CASES: list[tuple[Any, dict[str, Any]]] = [
    (_digits, {"recipe": "mlp"}),
    (_digits, {"recipe": "autoencoder", "data": {"anomalies": [0, 3]}}),
    (
        _table,
        {
            "recipe": "tabular",
            "data": {
                **{"train": "train.csv", "test": "test.csv", "target": "income"},
                **{"header": ["age", "work", "income"], "target_strip": ".", "min_count": 1},
            },
        },
    ),
    (_texts, {"recipe": "text_bag", "seed": 3, "data": {"test_share": 0.25}}),
    (
        _series,
        {"recipe": "series_rnn", "data": {"target": "Temp", "time": "Date", "test_rows": 20}},
    ),
]


def _problem(folder: Path, given: dict[str, Any]) -> tuple[JobSpec, Problem]:
    document = {"dataset": "datasets/d/versions/1", "model": "models/m", **given}
    spec = parse_spec(document, cores=1)
    return spec, load_problem(folder, spec)


def _model(problem: Problem) -> registry_pb2.ModelVersion:
    model = registry_pb2.ModelVersion(class_names=problem.class_names)
    for tensor in problem.inputs:
        model.signature.inputs.add(name=tensor.name, datatype=tensor.datatype)
    return model


@pytest.mark.parametrize(("write", "given"), CASES, ids=[case["recipe"] for _, case in CASES])
def test_they_are_the_rows_and_figures_of_the_job(
    write: Any, given: dict[str, Any], tmp_path: Path
) -> None:
    """Each row is what the job has, and made-up predictions are judged alike."""
    write(tmp_path)
    spec, problem = _problem(tmp_path, given)
    files = {path.name: path for path in sorted(tmp_path.iterdir())}

    read = rows.read(spec, files, _model(problem))

    assert len(read) == len(problem.test)
    assert read.inputs.keys() == problem.raw_rows.keys()
    for name, expected in problem.raw_rows.items():
        found = read.inputs[name]
        if found.dtype == object:
            found = np.array([[one.decode() for one in row] for row in found], object)
        np.testing.assert_array_equal(found, expected)
    outputs = len(problem.class_names) or 1
    predictions = RANDOM.random((len(read), outputs)).astype(np.float32)
    metrics = problem.objective.evaluate(problem.test.targets.numpy(), predictions).metrics()
    measured = read.measure(predictions)
    assert measured == {name: pytest.approx(metrics[name]) for name in measured}
    assert measured


def test_a_generator_is_asked_with_the_noise_that_was_judged(tmp_path: Path) -> None:
    """So that what it makes at the gateway is what the job saw."""
    write_digits(tmp_path, limit=60)
    given = {"recipe": "dcgan", "seed": 2, "hyperparameters": {"latent": 12, "judge_epochs": 0}}
    spec, problem = _problem(tmp_path, given)
    read = rows.read(spec, {name: tmp_path / name for name in FILES}, _model(problem))
    noise = read.inputs["noise"]
    np.testing.assert_array_equal(noise[:256], problem.raw_rows["noise"])
    assert len(read) == len(problem.test)
    images = RANDOM.random((1000, 8, 8)).astype(np.float32) * 300
    metrics = problem.objective.evaluate(problem.test.targets.numpy(), images).metrics()
    measured = read.measure(images)
    assert measured == {"samples_deviation": pytest.approx(metrics["samples_deviation"], rel=1e-4)}
