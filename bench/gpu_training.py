"""The cnn of ``docs/examples/mnist-cnn.yaml``, trained on the CPU and on a GPU by a job's loop.

A row for each: seconds of an epoch, the test accuracy, and whether it is the CPU's within what
chance makes of so many test images.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lepton.cli.documents import read_mapping

SPEC = Path("docs/examples/mnist-cnn.yaml")
_DEVIATIONS = 3.0
"""Standard errors that two accuracies may differ by: chance alone makes it more once in 370."""


def measure(
    data: Path, *, epochs: int, devices: Sequence[str] | None = None, spec: Path = SPEC
) -> Iterator[dict[str, Any]]:
    """A row for each of ``devices``, which are the CPU and the GPU.

    Args:
        data: Folder with the dataset that the spec trains on.

    Raises:
        GpuUnavailable: PyTorch sees no GPU; nothing is trained then.
    """
    # PyTorch takes seconds to load, and what serves models needs none of it.
    from lepton_training.worker.devices import CPU, device_for

    if devices is None:
        devices = (CPU, device_for(1))
    accuracies = []
    for device in devices:
        row, rows = _trained(data, spec, epochs, device)
        accuracies.append(row["test_accuracy"])
        row["difference"] = round(accuracies[-1] - accuracies[0], 4)
        row["agrees"] = agree(accuracies[0], accuracies[-1], rows)
        yield row


def agree(first: float, second: float, rows: int) -> bool:
    """Whether two accuracies on ``rows`` images differ by no more than chance makes them."""
    mean = (first + second) / 2
    error = math.sqrt(2 * mean * (1 - mean) / rows)
    # A model that is always right has no error; an image may still be on the other side.
    return abs(first - second) <= _DEVIATIONS * error + 1 / rows


def _trained(data: Path, spec: Path, epochs: int, device: str) -> tuple[dict[str, Any], int]:
    """The row of a device, and how many test images there are."""
    import torch

    from lepton_training.recipes import RECIPES
    from lepton_training.spec import parse_spec
    from lepton_training.worker.data.loading import load_problem
    from lepton_training.worker.devices import CPU
    from lepton_training.worker.pipeline import with_batch_size
    from lepton_training.worker.trainer import Trainer, predict
    from lepton_training.worker.tuning import fixed_plan

    document = read_mapping(spec, "recipe and dataset")
    settings = document.get("hyperparameters", {}) | {"epochs": epochs}
    cores = len(os.sched_getaffinity(0))
    parsed = parse_spec({**document, "hyperparameters": settings}, cores=cores)
    problem = load_problem(data, parsed)
    parsed = with_batch_size(parsed, len(problem.train))
    hyperparameters: Any = parsed.hyperparameters
    torch.manual_seed(parsed.seed)
    network = RECIPES[parsed.recipe].build(hyperparameters, problem.shape)
    seconds = Trainer(
        network,
        problem,
        hyperparameters,
        seed=parsed.seed,
        plan=fixed_plan(network, cpus=cores, device=device),
        cpus=cores,
        report=lambda _: None,
    ).run()
    outputs = predict(network, problem.test, problem.objective, fixed_plan(network, cpus=cores))
    targets = problem.test.targets.numpy()
    row = {
        "model": spec.stem,
        "how": f"training on {'cpu' if device == CPU else torch.cuda.get_device_name()}",
        "epochs": len(seconds),
        # The fastest: the first one has what is made once, such as kernels.
        "seconds_per_epoch": round(min(seconds), 3),
        "test_accuracy": float((outputs.argmax(axis=1) == targets).mean()),
    }
    return row, len(targets)
