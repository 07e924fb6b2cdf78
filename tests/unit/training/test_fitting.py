"""Losses, optimizers, schedules, clipping, averaging, early stopping: each does what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import nn

from lepton_training.recipes import RECIPES
from lepton_training.recipes.fitting import FitHyperparameters, SupervisedHyperparameters
from lepton_training.spec import JobSpecInvalid
from lepton_training.worker import checkpoint
from lepton_training.worker.data.examples import held_out
from lepton_training.worker.data.idx import load
from lepton_training.worker.data.images import prepare
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.objectives import Activation, Classification, class_weights
from lepton_training.worker.optimization import learning_rate_at, make_optimizer, take_step
from lepton_training.worker.trainer import Moment, Trainer
from lepton_training.worker.tuning import Plan


def training(
    stripes: Path, path: Path | None = None, **values: Any
) -> tuple[nn.Module, Trainer, list[Moment]]:
    """A small mlp about to be trained, and the moments it will report."""
    recipe = RECIPES["mlp"]
    given = {"epochs": 3, "batch_size": 16, "hidden": 16} | values
    hyperparameters: Any = recipe.hyperparameters(**given)
    problem = prepare(load(stripes), hyperparameters, seed=1)
    torch.manual_seed(1)
    network = recipe.build(hyperparameters, problem.shape)
    moments: list[Moment] = []
    trainer = Trainer(
        network,
        problem,
        hyperparameters,
        seed=1,
        plan=Plan(1, False),
        report=moments.append,
        checkpoint_path=path,
        checkpoint_seconds=0,
    )
    return network, trainer, moments


def epoch_ends(moments: list[Moment]) -> list[Moment]:
    return [moment for moment in moments if moment.epoch_end]


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
        {"optimizer": "adamw", "weight_decay": 0.01},
        {"optimizer": "rmsprop", "momentum": 0.5},
        {"optimizer": "adagrad", "learning_rate": 0.01},
        {"loss": "bce", "label_smoothing": 0.1},
        {"balanced": True, "label_smoothing": 0.1},
        {"class_weights": [1, 3]},
        {"schedule": "one_cycle", "warmup": 0.3, "gradient_clip": 1.0},
        {"schedule": "step", "decay_factor": 0.5},
        {"schedule": "plateau", "validation": 0.2},
        {"ema": 0.9},
    ],
    ids=lambda values: ", ".join(f"{name}={value}" for name, value in values.items()),
)
def test_every_way_to_fit_learns(values: dict[str, Any], stripes: Path) -> None:
    """Two classes that anything learns."""
    _, trainer, moments = training(stripes, **values)
    trainer.run()
    ends = epoch_ends(moments)
    assert ends[-1].metrics["train_loss"] < ends[0].metrics["train_loss"]
    assert ends[-1].metrics["train_accuracy"] > 0.95


def test_the_seed_chooses_what_is_held_out() -> None:
    """No row is in both parts, and every row is in one."""
    train, validation = held_out(100, 0.2, seed=3)
    assert len(validation) == 20
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(100))
    assert held_out(100, 0.2, seed=3)[1].equal(validation)
    assert not held_out(100, 0.2, seed=4)[1].equal(validation)
    assert [len(part) for part in held_out(2, 0.01, seed=0)] == [1, 1]
    assert [len(part) for part in held_out(5, 0.0, seed=0)] == [5, 0]


def test_validation_is_measured_after_every_epoch(stripes: Path) -> None:
    """On rows that are not trained on."""
    _, trainer, moments = training(stripes, validation=0.25)
    trainer.run()
    assert all(0 <= end.metrics["validation_accuracy"] <= 1 for end in epoch_ends(moments))
    assert all("validation_loss" in end.metrics for end in epoch_ends(moments))
    assert epoch_ends(moments)[-1].step == 3 * 12  # 192 of 256 rows in batches of 16


def _worsening(trainer: Trainer, losses: list[float]) -> None:
    """Makes the validation loss of each epoch what is said."""
    told = iter(losses)
    trainer._validate = lambda _: {"validation_loss": next(told)}


def test_early_stopping_keeps_the_best_weights(stripes: Path) -> None:
    """Two epochs without a lower loss end the training; the weights are those of the second."""
    network, trainer, moments = training(stripes, epochs=9, validation=0.25, early_stopping=2)
    _worsening(trainer, [0.5, 0.4, 0.6, 0.4])
    seen = []
    report = trainer._report

    def keep(moment: Moment) -> None:
        report(moment)
        if moment.epoch_end:
            seen.append({n: v.clone() for n, v in network.state_dict().items()})

    trainer._report = keep
    assert len(trainer.run()) == 4
    assert epoch_ends(moments)[-1].fraction == 1.0
    assert all(torch.equal(seen[1][n], value) for n, value in network.state_dict().items())


def test_a_plateau_lowers_the_rate(stripes: Path) -> None:
    """After two epochs without a lower loss, and again after two more."""
    _, trainer, _ = training(
        stripes, epochs=6, validation=0.25, schedule="plateau", decay_epochs=2, warmup=0
    )
    _worsening(trainer, [0.5, 0.6, 0.6, 0.6, 0.6, 0.4])
    rates = []
    watch = trainer._watch

    def note(loss: float) -> None:
        watch(loss)
        rates.append(trainer._rate())

    trainer._watch = note
    trainer.run()
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])


def test_what_a_resumed_job_needs_is_in_the_checkpoint(stripes: Path, tmp_path: Path) -> None:
    """The average, the best weights and the loss watched: it ends as an unbroken one."""
    values = {"epochs": 6, "validation": 0.25, "early_stopping": 2, "ema": 0.9, "optimizer": "sgd"}
    whole, trainer, _ = training(stripes, **values)
    trainer.run()

    path = tmp_path / "checkpoint.pt"
    _, trainer, _ = training(stripes, path, **values)

    def interrupt(moment: Moment) -> None:
        if moment.step == 30:
            raise KeyboardInterrupt

    trainer._report, trainer._report_seconds = interrupt, 0
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    state = checkpoint.load(path)
    assert state is not None and state.average is not None and state.best is not None
    resumed, trainer, _ = training(stripes, path, **values)
    trainer.resume(state)
    trainer.run()
    for (name, expected), found in zip(
        whole.state_dict().items(), resumed.state_dict().values(), strict=True
    ):
        assert torch.equal(expected, found), name


def test_an_average_trails_the_weights(stripes: Path) -> None:
    """What is exported is the exponential moving average of what was trained."""
    network, trainer, _ = training(stripes, ema=0.9, epochs=1)
    first: list[torch.Tensor] = []
    expected = torch.zeros(())
    update = trainer._average.update_parameters

    def follow(trained: nn.Module) -> None:
        nonlocal expected
        weights = next(trained.parameters()).detach().clone()
        expected = weights if not first else 0.9 * expected + 0.1 * weights
        first.append(weights)
        update(trained)

    trainer._average.update_parameters = follow
    trainer.run()
    assert torch.allclose(next(network.parameters()), expected, atol=1e-6)
    assert not torch.allclose(next(network.parameters()), first[-1], atol=1e-6)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"schedule": "step", "decay_epochs": 2, "decay_factor": 0.5},
            {0: 1, 19: 1, 20: 0.5, 45: 0.25},
        ),
        ({"schedule": "one_cycle", "warmup": 0.25}, {0: 0.04, 25: 1, 99: 0.0}),
        ({"schedule": "constant", "warmup": 0.1}, {0: 0.1, 9: 1, 50: 1}),
    ],
    ids=["step", "one_cycle", "constant"],
)
def test_schedules(values: dict[str, Any], expected: dict[int, float]) -> None:
    """The rate at some of 100 steps, ten an epoch."""
    hyperparameters = FitHyperparameters(**({"learning_rate": 1, "warmup": 0} | values))
    for step, rate in expected.items():
        found = learning_rate_at(step, 100, hyperparameters, steps_per_epoch=10)
        assert found == pytest.approx(rate, abs=1e-3), step


def test_clipping_bounds_the_step() -> None:
    """A gradient of any size moves the weights by the rate times the norm at most."""
    hyperparameters = SupervisedHyperparameters(optimizer="sgd", learning_rate=1, batch_size=1)
    network = nn.Linear(4, 2)
    before = nn.utils.parameters_to_vector(network.parameters()).detach().clone()
    take_step(
        network,
        make_optimizer(network, hyperparameters),
        Classification(hyperparameters, None),
        (torch.full((1, 4), 1e4),),
        torch.tensor([1]),
        gradient_clip=0.5,
    )
    after = nn.utils.parameters_to_vector(network.parameters()).detach()
    assert float((after - before).norm()) <= 0.5 + 1e-4


def test_losses_are_pytorchs_own() -> None:
    """Weights and smoothing reach them."""
    logits, labels = torch.randn(8, 3), torch.randint(0, 3, (8,))
    weights = torch.tensor([1.0, 2.0, 3.0])
    smooth = Classification(SupervisedHyperparameters(label_smoothing=0.1), weights)
    assert smooth.loss(logits, labels).equal(
        F.cross_entropy(logits, labels, weight=weights, label_smoothing=0.1)
    )
    each = Classification(SupervisedHyperparameters(loss="bce"), weights)
    columns = F.binary_cross_entropy_with_logits(
        logits, F.one_hot(labels, 3).float(), reduction="none"
    )
    assert each.loss(logits, labels).allclose((columns.mean(1) * weights[labels]).mean())
    assert each.activation(logits).sum(1).allclose(torch.ones(8))
    assert Activation("linear", 2.0, 1.0)(torch.tensor([3.0])).item() == 7.0


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_a_weight_is_of_an_example(loss: Any) -> None:
    """One that counts nothing changes nothing, whatever is said of its class in all columns."""
    weights = torch.tensor([0.0, 1.0, 1.0])
    objective = Classification(SupervisedHyperparameters(loss=loss), weights)
    logits = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0])
    objective.loss(logits, labels).backward()
    assert logits.grad is not None
    assert logits.grad[[0, 3]].abs().max() == 0
    assert bool((logits.grad[[1, 2]].abs() > 0).all())
    mixed = F.one_hot(labels, 3).float()
    mixed[1] = torch.tensor([0.5, 0.5, 0.0])
    mixed_loss = objective.loss(logits.detach(), mixed)
    assert mixed_loss.isfinite() and mixed_loss > 0


def test_balanced_classes_weigh_the_same_together() -> None:
    """Nine of one class and one of the other."""
    labels = np.array([0] * 9 + [1])
    weights = class_weights(SupervisedHyperparameters(balanced=True), labels, 2)
    assert weights is not None
    assert weights[labels].sum() == pytest.approx(10)
    assert float(weights[0] * 9) == pytest.approx(float(weights[1]))


def test_there_is_a_weight_for_each_class(stripes: Path) -> None:
    """What the spec alone cannot tell is told once the data is read."""
    hyperparameters = SupervisedHyperparameters(class_weights=[1, 2, 3])
    with pytest.raises(JobSpecInvalid, match="has 3 weights, and the data has 2 classes"):
        prepare(load(stripes), hyperparameters, seed=0)


def test_a_problem_is_made_of_parts_that_do_not_overlap(stripes: Path) -> None:
    """Training, validation and test split."""
    hyperparameters = SupervisedHyperparameters(validation=0.5)
    problem: Problem = prepare(load(stripes), hyperparameters, seed=0)
    assert problem.validation is not None
    assert (len(problem.train), len(problem.validation), len(problem.test)) == (128, 128, 64)
    assert problem.about == "128 training, 128 validation and 64 test images of 8x8, 2 classes"
