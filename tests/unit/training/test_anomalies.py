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


def test_whole_numbers_may_come_as_doubles() -> None:
    """Also in lists of labels."""
    found = spec_of({"anomalies": [3.0]}, "autoencoder").data.model_dump()["anomalies"]
    assert found == [3] and all(isinstance(label, int) for label in np.atleast_1d(found).tolist())
