"""Recipes learn, and training is the same whether it was interrupted or not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from lepton_training.recipes import RECIPES, ImageShape
from lepton_training.recipes.fitting import SupervisedHyperparameters
from lepton_training.worker import checkpoint, export
from lepton_training.worker.data.idx import ImageData, load
from lepton_training.worker.data.images import prepare
from lepton_training.worker.export import Served
from lepton_training.worker.export_request import ExportRequest
from lepton_training.worker.networks import ConvStack, scale
from lepton_training.worker.objectives import Activation
from lepton_training.worker.optimization import learning_rate_at
from lepton_training.worker.trainer import LossNotFinite, Moment, Stopped, Trainer, predict
from lepton_training.worker.tuning import Plan, ThreadTuner, choose_plan

PLAN = Plan(threads=1, channels_last=True)


def trainer(
    recipe: str, data: ImageData, moments: list[Moment], path: Path | None = None, **values: Any
) -> tuple[torch.nn.Module, Trainer]:
    declared = RECIPES[recipe]
    hyperparameters = declared.hyperparameters(**({"epochs": 3, "batch_size": 16} | values))
    height, width = data.train.images.shape[1:]
    torch.manual_seed(1)
    network = declared.build(hyperparameters, ImageShape(height, width, data.classes))
    return network, Trainer(
        network,
        prepare(data, hyperparameters, seed=1),
        hyperparameters,
        seed=1,
        plan=PLAN,
        report=moments.append,
        checkpoint_path=path,
        report_seconds=0,
        checkpoint_seconds=0,
    )


def probabilities(network: torch.nn.Module, data: ImageData) -> np.ndarray:
    """Of the test images."""
    problem = prepare(data, SupervisedHyperparameters(), seed=0)
    return predict(network, problem.test, problem.objective, PLAN)


@pytest.mark.parametrize("recipe", ["cnn", "mlp", "resnet"])
def test_every_recipe_learns_small_images(recipe: str, stripes: Path) -> None:
    """8x8 images of two classes, to the last one."""
    data = load(stripes)
    moments: list[Moment] = []
    network, running = trainer(recipe, data, moments)
    seconds = running.run()
    assert len(seconds) == 3
    assert (probabilities(network, data).argmax(1) == data.test.labels).all()
    ends = [moment for moment in moments if moment.epoch_end]
    assert [moment.epoch for moment in ends] == [1, 2, 3]
    assert ends[-1].fraction == 1.0
    assert ends[-1].metrics["train_loss"] < ends[0].metrics["train_loss"]
    assert set(ends[0].metrics) == {"train_loss", "train_accuracy", "test_accuracy"}


@pytest.mark.parametrize(("side", "flat"), [(28, 576), (18, 64), (17, 1024), (8, 256), (4, 64)])
def test_the_convolutions_fit_every_size(side: int, flat: int) -> None:
    """The seed's own shape on 28x28, and something left on the smallest."""
    recipe = RECIPES["cnn"]
    network = recipe.build(recipe.hyperparameters(), ImageShape(side, side, 10))
    assert isinstance(network, ConvStack)
    assert network.dense1.in_features == flat
    assert network(torch.zeros(2, 1, side, side)).shape == (2, 10)


def test_pooling_first_changes_nothing() -> None:
    """Training pools before the ReLU and serving after it: to the bit the same."""
    recipe = RECIPES["cnn"]
    network = recipe.build(recipe.hyperparameters(), ImageShape(28, 28, 10))
    pixels = scale(torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8))
    with torch.no_grad():
        assert torch.equal(network.train()(pixels), network.eval()(pixels))


@pytest.mark.parametrize(
    ("at", "kept"), [(21, 20), (32, 31)], ids=["in mid-epoch", "at an epoch's end"]
)
def test_a_killed_training_ends_with_the_same_model(
    at: int, kept: int, stripes: Path, tmp_path: Path
) -> None:
    """Resumed from the last checkpoint, as after kill -9."""
    data = load(stripes)
    whole, running = trainer("cnn", data, [])
    running.run()

    path = tmp_path / "checkpoint.pt"
    moments: list[Moment] = []
    _, running = trainer("cnn", data, moments, path)

    def interrupt(moment: Moment) -> None:
        if moment.step == at:  # of 48, 16 an epoch
            raise KeyboardInterrupt

    running._report = interrupt
    with pytest.raises(KeyboardInterrupt):
        running.run()
    _resume_and_compare(data, path, kept, whole)


@pytest.mark.parametrize("at", [21, 32, 48])
def test_a_stopped_training_loses_no_step(at: int, stripes: Path, tmp_path: Path) -> None:
    """Told to stop, it writes a checkpoint of the step it has taken, and ends the same."""
    data = load(stripes)
    whole, running = trainer("cnn", data, [])
    running.run()

    path = tmp_path / "checkpoint.pt"
    moments: list[Moment] = []
    _, running = trainer("cnn", data, moments, path)
    running._checkpoint_seconds = 1e9

    def stop(moment: Moment) -> None:
        moments.append(moment)
        if moment.step == at:
            running.stop()

    running._report = stop
    with pytest.raises(Stopped):
        running.run()
    ends = [moment.epoch for moment in moments if moment.epoch_end]
    assert ends == list(range(1, at // 16 + 1))
    _resume_and_compare(data, path, at, whole)


def _resume_and_compare(data: ImageData, path: Path, step: int, whole: torch.nn.Module) -> None:
    """Goes on from the checkpoint of ``step``, to the very weights of ``whole``."""
    state = checkpoint.load(path)
    assert state is not None and state.step == step
    resumed, running = trainer("cnn", data, [], path)
    running.resume(state)
    assert len(running.run()) == 3
    for (name, expected), found in zip(
        whole.state_dict().items(), resumed.state_dict().values(), strict=True
    ):
        assert torch.equal(expected, found), name


def test_a_loss_that_is_no_number_fails_and_keeps_the_checkpoint(
    stripes: Path, tmp_path: Path
) -> None:
    """The last good checkpoint stays."""
    data = load(stripes)
    path = tmp_path / "checkpoint.pt"
    network, running = trainer("mlp", data, [], path)
    report = running._report

    def poison(moment: Moment) -> None:
        report(moment)
        if moment.step == 10:
            with torch.no_grad():
                next(network.parameters()).fill_(float("nan"))

    running._report = poison
    with pytest.raises(LossNotFinite, match="learning_rate"):
        running.run()
    state = checkpoint.load(path)
    assert state is not None
    assert all(bool(value.isfinite().all()) for value in state.model.values())


def test_the_rate_rises_then_falls_to_zero() -> None:
    """Warm-up, peak, cosine."""
    hyperparameters = SupervisedHyperparameters(learning_rate=0.5, warmup=0.1)
    rates = [learning_rate_at(step, 100, hyperparameters) for step in range(101)]
    assert rates[0] == pytest.approx(0.05)
    assert max(rates) == rates[10] == 0.5
    assert rates[55] == pytest.approx(0.25)
    assert rates[100] == pytest.approx(0)
    constant = SupervisedHyperparameters(learning_rate=0.5, schedule="constant", warmup=0)
    assert {learning_rate_at(step, 100, constant) for step in range(100)} == {0.5}


def test_a_plan_is_chosen_and_leaves_the_network_alone(stripes: Path) -> None:
    """The candidates train copies."""
    recipe = RECIPES["cnn"]
    hyperparameters = SupervisedHyperparameters(batch_size=8)
    network = recipe.build(recipe.hyperparameters(), ImageShape(8, 8, 2))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    problem = prepare(load(stripes), hyperparameters, seed=0)
    plan, tried = choose_plan(network, problem, hyperparameters, cpus=2)
    assert set(tried) == {Plan(2, last) for last in (False, True)}
    assert plan in tried
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("milliseconds", "threads"),
    [
        ({4: 9.0, 2: 12.0, 1: 16.0}, 4),
        ({4: 80.0, 2: 30.0, 1: 18.0}, 1),
        ({4: 10.0, 2: 9.5, 1: 16.0}, 4),
    ],
    ids=["alone", "beside a busy neighbour", "not clearly faster"],
)
def test_threads_follow_the_machine(milliseconds: dict[int, float], threads: int) -> None:
    """The median step decides: a burst over a few steps does not."""
    tuner, used = ThreadTuner(4, cpus=4), []
    for step in range(60):
        used.append(torch.get_num_threads())
        burst = 100 if step in (7, 8) else 1
        tuner.step_took(milliseconds[used[-1]] / 1e3 * burst)
    assert set(used) == {4, 2, 1}
    assert tuner.threads == torch.get_num_threads() == threads


def test_one_core_has_one_thread() -> None:
    """Nothing is tried where there is nothing to choose from."""
    tuner = ThreadTuner(1, cpus=1)
    for _ in range(5):
        tuner.step_took(0.001)
        assert torch.get_num_threads() == 1


def test_a_different_model_does_not_pass_parity(stripes: Path, tmp_path: Path) -> None:
    """The comparison sees a model that answers differently, and one that answers NaN."""
    data = load(stripes)
    recipe = RECIPES["mlp"]
    shape = ImageShape(8, 8, 2)
    network = recipe.build(recipe.hyperparameters(), shape)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    np.savez(tmp_path / "rows.npz", images=data.test.images)
    request = ExportRequest(
        recipe="mlp",
        hyperparameters=recipe.hyperparameters().model_dump(),
        shape=dataclasses.asdict(shape),
        activation=dataclasses.asdict(Activation("softmax")),
        output="probabilities",
        weights="weights.pt",
        rows="rows.npz",
    )
    report = export.export(tmp_path, request)
    assert report["agrees"]
    assert [batch["batch_size"] for batch in report["batches"]] == list(export.BATCH_SIZES)

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (only,) = session.get_inputs()
    assert (only.name, only.type, only.shape) == ("images", "tensor(uint8)", ["batch", 8, 8])

    served = Served(network, Activation("softmax"), raw_images=True).eval()
    for change in (1.01, float("nan")):
        with torch.no_grad():
            next(network.parameters()).mul_(change)
        found = export.compare(
            served, tmp_path / "model.onnx", {"images": data.test.images}, (1, 3)
        )
        assert not found["agrees"]


def test_a_plan_says_what_it_is() -> None:
    """What was chosen is printed."""
    assert str(PLAN) == "channels_last, 1 thread"
    assert str(dataclasses.replace(PLAN, threads=2, channels_last=False)) == "contiguous, 2 threads"
