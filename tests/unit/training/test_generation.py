"""Generating images: two networks against each other, samples of every epoch, a judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from lepton_training.recipes import RECIPES
from lepton_training.spec import JobSpecInvalid
from lepton_training.worker.data.idx import DatasetInvalid
from lepton_training.worker.data.loading import load_problem
from lepton_training.worker.evaluation import Judgement, evaluate_samples
from lepton_training.worker.trainer import predict
from lepton_training.worker.tuning import ThreadTuner
from tests.training_jobs import PLAN, exported, spec_of, trained
from tests.unit.training.resumption import assert_resumed_alike
from tests.unit.training.test_image_files import pictures, write

SMALL = {"batch_size": 16, "latent": 4, "width": 4}


@pytest.fixture
def data(stripes: Path, tmp_path: Path) -> Path:
    """The images in a job's directory."""
    return stripes


def test_samples_come_near_what_was_trained_on(data: Path, tmp_path: Path) -> None:
    """One label: left halves bright; the served generator makes images of noise."""
    spec = spec_of({"labels": [0]}, "dcgan", epochs=20, learning_rate=5e-3, ema=0.9, **SMALL)
    problem = load_problem(data, spec)
    network = trained(problem, spec)
    images = predict(network, problem.test, problem.objective, PLAN)
    assert images.shape == (1000, 8, 8)
    assert images[:, :, :4].mean() > images[:, :, 4:].mean() + 50
    figures = problem.objective.evaluate(problem.test.targets.numpy(), images).metrics()
    assert figures["judge_accuracy"] > 0.9
    assert 0 <= figures["samples_confident"] <= 1

    with Image.open(data.parent / "samples.png") as drawn:
        assert drawn.size == (10 * 8, 20 * 8)  # a row of ten samples an epoch

    assert exported(tmp_path / "export", problem, spec, network)["agrees"]
    session = onnxruntime.InferenceSession(tmp_path / "export" / "model.onnx")
    (found,) = session.run(None, {"noise": problem.raw_rows["noise"][:3]})
    assert found == pytest.approx(images[:3], abs=0.1)


def test_a_killed_training_ends_with_the_same_generator(data: Path, tmp_path: Path) -> None:
    """Both optimizers are in the checkpoint, and the noise is that of the step."""
    spec = spec_of({}, "dcgan", epochs=2, judge_epochs=0, **SMALL)
    hyperparameters: Any = spec.hyperparameters
    assert_resumed_alike("dcgan", hyperparameters, lambda: load_problem(data, spec), 19, tmp_path)


@pytest.mark.parametrize("side", [(8, 8), (9, 11), (28, 28)])
def test_images_have_the_size_of_training(side: tuple[int, int]) -> None:
    """Also where it is no multiple of four."""
    recipe = RECIPES["dcgan"]
    shape = recipe.data.shape(*side, 1)
    pair = recipe.build(recipe.hyperparameters(), shape)
    images = pair.generator(torch.randn(2, 64))
    assert images.shape == (2, 1, *side)
    assert pair.discriminator(images, torch.zeros(2, dtype=torch.int64)).shape == (2, 1)


def test_samples_are_counted_by_what_the_judge_is_sure_of() -> None:
    """Three of four, of two classes."""
    probabilities = np.array([[0.95, 0.05, 0], [0.99, 0.01, 0], [0, 0.91, 0.09], [0.5, 0.5, 0]])
    judged = Judgement(probabilities, accuracy=0.98, real_variety=10.0)
    found = evaluate_samples(np.zeros((4, 2, 2), np.uint8), judged)
    assert (found.confident, found.classes, found.per_class) == (0.75, 2, (2, 1, 0))
    assert found.metrics()["judge_accuracy"] == 0.98
    assert found.variety == 0
    images = np.array([[[0]], [[20]], [[7]], [[5]]])  # all but the third are of one class
    assert evaluate_samples(images, judged).variety == pytest.approx(np.std([0, 20, 5]) / 10)


def test_what_does_not_go_with_generating_is_a_fault() -> None:
    """There is no loss by which to stop early."""
    with pytest.raises(JobSpecInvalid) as caught:
        spec_of(
            {},
            "dcgan",
            validation=0.1,
            early_stopping=2,
            schedule="plateau",
            optimizer="sgd",
            beta1=0.1,
        )
    assert [fault.path.rpartition(".")[2] for fault in caught.value.faults] == [
        "validation",
        "early_stopping",
        "schedule",
        "beta1",
    ]


def test_the_noise_says_the_class(data: Path, tmp_path: Path) -> None:
    """Trained on both halves, the greater of the first two numbers says which is bright."""
    spec = spec_of({}, "dcgan", epochs=25, learning_rate=5e-3, ema=0.9, judge_epochs=0, **SMALL)
    problem = load_problem(data, spec)
    assert "the greatest of the first 2 draws 0, 1" in problem.inputs[0].description
    images = predict(trained(problem, spec), problem.test, problem.objective, PLAN)
    noise = problem.test.inputs(slice(None))[0].numpy()
    left = images[:, :, :4].mean(axis=(1, 2)) > images[:, :, 4:].mean(axis=(1, 2))
    assert (left == (noise[:, 0] > noise[:, 1])).mean() > 0.9


def test_there_is_a_number_for_each_label(data: Path) -> None:
    """Or the spec is told so; without classes there is no need."""
    with pytest.raises(JobSpecInvalid, match=r"hyperparameters\.latent: must be 2 or more"):
        load_problem(data, spec_of({}, "dcgan", latent=1))
    plain = load_problem(data, spec_of({}, "dcgan", latent=1, conditional=False))
    assert plain.inputs[0].description == "standard normal numbers"


def test_a_label_that_no_image_has_is_said(data: Path) -> None:
    """Nothing to learn."""
    with pytest.raises(DatasetInvalid, match=r"data\.labels"):
        load_problem(data, spec_of({"labels": [7]}, "dcgan"))


def test_the_judge_keeps_its_threads(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number changes the last bits, and so which samples it is sure of."""
    made = []

    class Remembered(ThreadTuner):
        def __init__(self, threads: int, cpus: int, *, fixed: bool = False) -> None:
            made.append(fixed)
            super().__init__(threads, cpus, fixed=fixed)

    monkeypatch.setattr("lepton_training.worker.trainer.ThreadTuner", Remembered)
    problem = load_problem(data, spec_of({}, "dcgan", judge_epochs=1, **SMALL))
    samples = np.random.default_rng(0).uniform(0, 255, (20, 8, 8)).astype(np.float32)
    problem.objective.evaluate(np.zeros(20), samples)
    assert made == [True]


def test_files_are_learnt_too(tmp_path: Path) -> None:
    """Brought to one size and to grey; their classes are called by their folders."""
    write(tmp_path / "data", pictures(80, sizes=((12, 16), (16, 12)), rgb=True))
    spec = spec_of({"height": 8, "width": 8}, "dcgan", epochs=1, judge_epochs=0, **SMALL)
    problem = load_problem(tmp_path / "data", spec)
    assert len(problem.train) == 64  # the others are for a judge
    assert "the greatest of the first 2 draws left, right" in problem.inputs[0].description
    assert problem.preprocessing is None
    network = trained(problem, spec)
    assert predict(network, problem.test, problem.objective, PLAN).shape == (1000, 8, 8)
    assert exported(tmp_path / "export", problem, spec, network)["agrees"]

    chosen = spec_of({"height": 8, "width": 8, "labels": ["right"]}, "dcgan", **SMALL)
    images = load_problem(tmp_path / "data", chosen).train.inputs(slice(None))[0]
    assert (images[..., 4:].mean(dim=(1, 2, 3)) > images[..., :4].mean(dim=(1, 2, 3))).all()


def test_a_single_folder_is_learnt_without_a_judge(tmp_path: Path) -> None:
    """Who is told so when there is one: there is nothing to tell apart."""
    files = {path: content for path, content in pictures(40).items() if path.startswith("left")}
    write(tmp_path, files)
    with pytest.raises(JobSpecInvalid) as caught:
        load_problem(tmp_path, spec_of({}, "dcgan", **SMALL))
    assert [fault.path for fault in caught.value.faults] == ["spec.hyperparameters.judge_epochs"]
    problem = load_problem(tmp_path, spec_of({}, "dcgan", judge_epochs=0, **SMALL))
    assert (len(problem.train), problem.shape.classes) == (16, 1)


def test_files_of_several_sizes_need_one(tmp_path: Path) -> None:
    """A generator has but one."""
    write(tmp_path, pictures(20, sizes=((8, 8), (9, 8))))
    with pytest.raises(DatasetInvalid, match=r"data\.height and data\.width"):
        load_problem(tmp_path, spec_of({}, "dcgan", **SMALL))
