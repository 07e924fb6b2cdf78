"""Anomalies: trained on what is normal, scored by what cannot be rebuilt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from lepton_training.spec import JobSpecInvalid
from lepton_training.worker.data.idx import DatasetInvalid, load
from lepton_training.worker.data.loading import load_problem
from lepton_training.worker.trainer import predict
from tests.training_jobs import PLAN, exported, spec_of, trained
from tests.unit.training.test_image_files import drawn, encoded, write


def test_a_label_left_out_is_found(stripes: Path, tmp_path: Path) -> None:
    """Left halves are normal, right ones are not; the served model scores raw pixels."""
    spec = spec_of(
        {"anomalies": [1]},
        "autoencoder",
        epochs=15,
        batch_size=16,
        hidden=[16],
        code=2,
        validation=0.1,
        learning_rate=5e-3,
    )
    problem = load_problem(stripes, spec)
    data = load(stripes)
    assert len(problem.train) < int((data.train.labels == 0).sum())
    network = trained(problem, spec)
    scores = predict(network, problem.test, problem.objective, PLAN)
    figures = problem.objective.evaluate(problem.test.targets.numpy(), scores).metrics()
    assert figures["roc_auc"] > 0.99
    assert figures["anomaly_recall"] > 0.9

    assert exported(tmp_path / "export", problem, spec, network)["agrees"]
    session = onnxruntime.InferenceSession(tmp_path / "export" / "model.onnx")
    (found,) = session.run(None, {"images": data.test.images[:5]})
    assert found.shape == (5, 1)
    assert found == pytest.approx(scores[:5], abs=1e-5)


@pytest.mark.parametrize(
    ("anomalies", "message"), [([0, 1], "has every label"), ([7], "0 images of the labels")]
)
def test_there_must_be_both_kinds(anomalies: list[int], message: str, stripes: Path) -> None:
    """Normal ones to train on, anomalies to be measured by."""
    with pytest.raises(DatasetInvalid) as caught:
        load_problem(stripes, spec_of({"anomalies": anomalies}, "autoencoder"))
    assert message in caught.value.message


def test_anomalies_must_be_named() -> None:
    """The spec says which labels they are."""
    with pytest.raises(JobSpecInvalid) as caught:
        spec_of({}, "autoencoder", hidden=[0])
    assert [fault.path for fault in caught.value.faults] == [
        "spec.hyperparameters.hidden",
        "spec.data.anomalies",
    ]


def test_labels_are_names_and_numbers_of_idx_files_may_come_as_doubles() -> None:
    """As a protobuf Struct has them; true is no label."""
    found = spec_of({"anomalies": [3.0, 4, "scratch"]}, "autoencoder").data.model_dump()
    assert found["anomalies"] == ["3", "4", "scratch"]
    for wrong in (True, 1.5):
        with pytest.raises(JobSpecInvalid) as caught:
            spec_of({"anomalies": [wrong]}, "autoencoder")
        assert [fault.path for fault in caught.value.faults] == ["spec.data.anomalies.0"]


def damaged_goods(directory: Path) -> Path:
    """Photographs of a part in the layout of inspection datasets: what is good to train on, and in
    the test split what is broken too. Of several sizes, some colored."""
    for number, (folder, count) in enumerate(
        {"train/good": 60, "test/good": 20, "test/broken": 20}.items()
    ):
        label = "right" if folder == "test/broken" else "left"
        for index in range(count):
            size = ((12, 16), (16, 12))[index % 2]
            image = drawn(label, 1000 * number + index, size, rgb=index % 3 == 0)
            write(directory, {f"{folder}/{index:02d}.png": encoded(image)})
    return directory


FILES = {"train": "train/*", "test": "test/*", "height": 8, "width": 8}


def test_anomalies_of_files_are_found_and_served_raw(tmp_path: Path) -> None:
    """Their class is one that training does not have; an endpoint takes images of any size."""
    spec = spec_of(
        {**FILES, "anomalies": ["broken"]},
        "autoencoder",
        epochs=25,
        batch_size=16,
        hidden=[16],
        code=2,
        learning_rate=5e-3,
    )
    problem = load_problem(damaged_goods(tmp_path / "data"), spec)
    assert (len(problem.train), len(problem.test)) == (60, 40)
    assert problem.test.targets.sum() == 20
    assert problem.inputs[0].shape == (-1, -1, -1)
    network = trained(problem, spec)
    scores = predict(network, problem.test, problem.objective, PLAN)
    found = problem.objective.evaluate(problem.test.targets.numpy(), scores).metrics()
    assert found["roc_auc"] > 0.95

    report = exported(tmp_path / "export", problem, spec, network)
    assert report["agrees"], report
    session = onnxruntime.InferenceSession(tmp_path / "export" / "model.onnx")
    new = np.stack([drawn(label, 900, (30, 24), False) for label in ("left", "right")])
    (answer,) = session.run(None, {"images": new})
    assert answer[0] < answer[1]


def test_a_blank_file_may_be_what_is_to_be_found(tmp_path: Path) -> None:
    """Of the test split it is kept, of training it is not."""
    damaged_goods(tmp_path)
    blank = encoded(np.full((8, 8), 9, np.uint8))
    write(tmp_path, {"train/good/blank.png": blank, "test/broken/blank.png": blank})
    problem = load_problem(tmp_path, spec_of({**FILES, "anomalies": ["broken"]}, "autoencoder"))
    assert (len(problem.train), len(problem.test)) == (60, 41)
    reasons = problem.report["cleaning"]["splits"]["train"]["reasons"]
    assert [(one["reason"], one["example"]) for one in reasons] == [
        ("one color throughout", "train/good/blank.png")
    ]


@pytest.mark.parametrize(
    ("anomalies", "message"),
    [
        (["broken", "scrached"], "has 'scrached', which no image is of; there are broken, good"),
        (["broken", "good"], "has every label"),
    ],
)
def test_a_class_that_no_file_has_is_said(
    anomalies: list[str], message: str, tmp_path: Path
) -> None:
    """A slip of the pen would have what is broken trained on as normal."""
    spec = spec_of({**FILES, "anomalies": anomalies}, "autoencoder")
    with pytest.raises(DatasetInvalid) as caught:
        load_problem(damaged_goods(tmp_path), spec)
    assert message in caught.value.message


def test_what_idx_files_say_themselves_is_a_fault(stripes: Path) -> None:
    """As for images that are classified."""
    with pytest.raises(JobSpecInvalid) as caught:
        load_problem(stripes, spec_of({"anomalies": [1], "test": "a"}, "autoencoder"))
    assert [fault.path for fault in caught.value.faults] == ["spec.data.test"]
