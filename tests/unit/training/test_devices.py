"""Training on a GPU: when it is, what is brought there, and that all of it comes back.

No test but the last needs a GPU: fake tensors know on which device each would be, and refuse an
operation on two.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch._subclasses.fake_tensor import FakeTensorMode

from bench import gpu, gpu_training
from lepton_training.recipes import RECIPES
from lepton_training.worker import checkpoint
from lepton_training.worker.data.loading import load_problem
from lepton_training.worker.devices import CPU, CUDA, GpuUnavailable, device_for
from lepton_training.worker.trainer import Trainer, outputs_of
from lepton_training.worker.tuning import Plan, fixed_plan
from tests.training_jobs import spec_of
from tests.unit.training.test_series import write as write_series
from tests.unit.training.test_tables import rows
from tests.unit.training.test_texts import in_csv, sentences


def test_a_job_trains_where_it_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """One without a GPU never does on it; one with a GPU never does without."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (device_for(0), device_for(1), device_for(2)) == (CPU, CUDA, CUDA)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_for(0) == CPU
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(GpuUnavailable, match=r"asked for 2 GPUs.*built without CUDA"):
        device_for(2)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(GpuUnavailable, match=r"asked for 1 GPU,.*CUDA_VISIBLE_DEVICES"):
        device_for(1)


def problem_of(recipe: str, folder: Path, stripes: Path, **hyperparameters: Any) -> Any:
    """A spec and a small problem of the recipe's kind of data."""
    kind = RECIPES[recipe].data.id
    data: dict[str, Any] = {}
    if kind == "table":
        data = {"target": "wanted"}
        (folder / "t.csv").write_text("\n".join(["x,letter,wanted", *rows(60, 0)]))
    elif kind == "text":
        in_csv(folder, sentences(60, 0))
    elif kind == "series":
        data = {"target": "level", "window": 4}
        write_series(folder, torch.arange(60.0).numpy())
    elif kind == "image_anomalies":
        data = {"anomalies": [1]}
    spec = spec_of(data, recipe, batch_size=8, **hyperparameters)
    return spec, load_problem(stripes if kind.startswith("image") else folder, spec)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> FakeTensorMode:
    """Fake tensors, which a PyTorch without CUDA makes on a GPU but does not copy there."""
    to = torch.Tensor.to

    def copied(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args and str(args[0]).startswith(CUDA):
            return torch.empty_like(self, device=CUDA)
        return to(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", copied)
    return FakeTensorMode(allow_non_fake_inputs=True)


@pytest.mark.parametrize("recipe", ["autoencoder", "cnn", "mlp", "tabular"])
def test_outputs_and_loss_are_on_one_device(
    recipe: str, fakes: FakeTensorMode, tmp_path: Path, stripes: Path
) -> None:
    """Where the batch and the network are. A PyTorch without CUDA refuses operations of the other
    recipes, even on fakes: recurrent layers, batch norms, attention, sorting."""
    spec, problem = problem_of(recipe, tmp_path, stripes)
    network = RECIPES[recipe].build(spec.hyperparameters, problem.shape).requires_grad_(False)
    given, wanted = problem.train.inputs(slice(8)), problem.train.targets[:8]
    with fakes as mode, torch.no_grad():
        for module in network.modules():
            for name, value in module.named_parameters(recurse=False):
                found = torch.empty_like(mode.from_tensor(value), device=CUDA)
                module.register_parameter(name, torch.nn.Parameter(found, requires_grad=False))
            for name, value in module.named_buffers(recurse=False):
                module.register_buffer(name, mode.from_tensor(value).to(CUDA))
        plan = Plan(1, channels_last=False, device=CUDA)
        outputs = network(*plan.arranged(tuple(mode.from_tensor(tensor) for tensor in given)))
        targets = mode.from_tensor(wanted).to(CUDA)
        loss = problem.objective.loss(outputs, targets)
        hits = problem.objective.hits(outputs, targets)
        assert {loss.device.type, outputs.device.type} == {CUDA}
        assert hits is None or hits.device.type == CUDA


def test_class_weights_follow_the_outputs(stripes: Path, tmp_path: Path) -> None:
    _, problem = problem_of("mlp", tmp_path, stripes, class_weights=[1.0, 2.0])
    with FakeTensorMode(allow_non_fake_inputs=True):
        outputs = torch.zeros(4, 2, device=CUDA)
        targets = torch.zeros(4, dtype=torch.int64, device=CUDA)
        assert problem.objective.loss(outputs, targets).device.type == CUDA


class Sent(torch.nn.Module):
    """A network that remembers where it was sent; it has no parameters of its own to be moved."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.places: list[str] = []

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.network(*inputs)
        return outputs

    def to(self, *args: Any, **kwargs: Any) -> Any:
        self.places += [str(args[0])] if args else []
        return super().to(*args, **kwargs)


def test_what_was_trained_comes_back(stripes: Path, tmp_path: Path) -> None:
    """To the CPU, where it is measured and exported."""
    spec, problem = problem_of("mlp", tmp_path, stripes, epochs=1)
    hyperparameters: Any = spec.hyperparameters
    network = Sent(RECIPES["mlp"].build(hyperparameters, problem.shape))
    plan = fixed_plan(network, cpus=1, device="cpu:0")
    Trainer(network, problem, hyperparameters, seed=0, plan=plan, report=lambda _: None).run()
    assert network.places == ["cpu:0", "cpu"]
    outputs = outputs_of(network, problem.test, plan)
    assert outputs.device.type == CPU


def test_a_checkpoint_is_read_on_a_machine_without_a_gpu(
    stripes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tensors come to the CPU; one of before there were devices is of the CPU."""
    path = tmp_path / "checkpoint.pt"
    asked: list[Any] = []
    load = torch.load

    def noted(*args: Any, **kwargs: Any) -> Any:
        asked.append(kwargs["map_location"])
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", noted)
    state = checkpoint.Checkpoint(
        step=1, plan=Plan(2, True, CUDA), model={}, optimizer={}, epoch_seconds=(),
        partial_seconds=0.0, loss_sum=0.0, correct=0,
    )  # fmt: skip
    checkpoint.save(path, state)
    found = checkpoint.load(path)
    assert found is not None and found.plan == Plan(2, True, CUDA)
    content = load(path, weights_only=True)
    torch.save({**content, "plan": content["plan"][:2]}, path)
    earlier = checkpoint.load(path)
    assert earlier is not None and earlier.plan == Plan(2, True, CPU)
    assert asked == [CPU, CPU]


def test_accuracies_may_differ_by_chance() -> None:
    """Three standard errors of so many images."""
    assert gpu_training.agree(0.99, 0.9875, 10_000)
    assert not gpu_training.agree(0.99, 0.98, 10_000)
    assert gpu_training.agree(1.0, 1.0, 100)
    assert not gpu_training.agree(0.99, float("nan"), 100)


def test_the_benchmark_trains_on_each_device(stripes: Path, tmp_path: Path) -> None:
    """And compares what came of it; here the CPU stands for both."""
    spec = tmp_path / "small.yaml"
    document = {"recipe": "cnn", "dataset": "datasets/d/versions/1", "model": "models/m"}
    spec.write_text(yaml.safe_dump({**document, "hyperparameters": {"batch_size": 16}}))
    found = list(gpu_training.measure(stripes, epochs=2, devices=(CPU, CPU), spec=spec))
    assert [row["epochs"] for row in found] == [2, 2]
    assert all(row["agrees"] and row["seconds_per_epoch"] > 0 for row in found)
    assert found[0]["test_accuracy"] == found[1]["test_accuracy"] > 0.9


def test_the_benchmark_says_what_training_lacks(
    stripes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside what serving lacks, and before anything is trained."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(gpu, "_serving", lambda *_: "no NVIDIA GPU")
    monkeypatch.setattr(sys, "argv", ["bench.gpu", "--data", str(stripes)])
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and "no NVIDIA GPU" in err and "the job asked for 1 GPU" in err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_every_recipe_trains_on_a_gpu(recipe: str, stripes: Path, tmp_path: Path) -> None:
    """And what is left is on the CPU."""
    spec, problem = problem_of(recipe, tmp_path, stripes, epochs=2)
    hyperparameters: Any = spec.hyperparameters
    torch.manual_seed(0)
    network = RECIPES[recipe].build(hyperparameters, problem.shape)
    plan = fixed_plan(network, cpus=1, device=CUDA)
    Trainer(network, problem, hyperparameters, seed=0, plan=plan, report=lambda _: None).run()
    assert {value.device.type for value in network.state_dict().values()} == {CPU}
    outputs = outputs_of(network, problem.test, fixed_plan(network, cpus=1))
    assert outputs.isfinite().all()
