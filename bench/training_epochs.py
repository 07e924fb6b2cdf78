"""Seconds per epoch of the recipe's loop beside plain PyTorch loops, in one run.

    python -m bench.training_epochs <folder with the four IDX files>

Every loop trains the seed CNN (batch 64, Adam, cross-entropy) on the same MNIST
images, in a process of its own, since what one does to the C allocator would
help the others. The processes take turns, a few rounds of some steps each, so
that a neighbour's burst on a shared machine hits them alike; the figure is the
median of the rounds, scaled to an epoch.

plain loops: images as FP32 in memory, one gather per batch, ``nn.Module`` layers
in the usual order (convolution, ReLU, pooling), ``torch.optim.Adam`` as it comes.
recipe: the loop that jobs run, metrics and all, with the plan it chose itself.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lepton_training.worker.data.idx import ImageData

LOOPS = ("plain_contiguous", "plain_channels_last", "recipe")
ROUNDS, WARM_STEPS, STEPS, BATCH = 5, 20, 80, 64
EPOCH_STEPS = 938  # 60,000 images


def run(data_dir: str | Path) -> dict[str, Any]:
    """Median seconds per epoch of each loop, and the recipe's advantage over the best plain one."""
    workers: dict[str, subprocess.Popen[str]] = {}
    ready = {}
    try:
        for name in LOOPS:  # one after the other: the recipe measures while it starts
            workers[name] = _start(name, Path(data_dir))
            ready[name] = _answer(workers[name])
        rounds: dict[str, list[float]] = {name: [] for name in LOOPS}
        for _ in range(ROUNDS):
            for name, worker in workers.items():
                assert worker.stdin is not None
                worker.stdin.write("go\n")
                worker.stdin.flush()
                rounds[name].append(_answer(worker)["seconds_per_epoch"])
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    medians = {name: statistics.median(values) for name, values in rounds.items()}
    best_plain = min(medians["plain_contiguous"], medians["plain_channels_last"])
    return {
        "seconds_per_epoch": {name: round(value, 2) for name, value in medians.items()},
        "rounds": {name: [round(v, 2) for v in values] for name, values in rounds.items()},
        "recipe_plan": ready["recipe"]["plan"],
        "times_faster_than_best_plain": round(best_plain / medians["recipe"], 2),
        "times_faster_than_contiguous": round(medians["plain_contiguous"] / medians["recipe"], 2),
    }


def _start(name: str, data_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, __file__, "--loop", name, str(data_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _answer(worker: subprocess.Popen[str]) -> dict[str, Any]:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"a loop's process ended with status {worker.wait()}")
    answer: dict[str, Any] = json.loads(line)
    return answer


class _Pace:
    """Lets a loop run a round for every line that comes in, and says how long it took."""

    def __init__(self, plan: str) -> None:
        self._plan = plan
        self._first = 0
        self._begin = 0.0

    def tick(self, step: int) -> None:
        """Called by the loop with its steps so far; returns when it shall go on."""
        if not self._begin:
            if step < WARM_STEPS:
                return
            _say({"plan": self._plan})
        elif step - self._first < STEPS:
            return
        else:
            seconds = (time.perf_counter() - self._begin) / (step - self._first) * EPOCH_STEPS
            _say({"seconds_per_epoch": seconds})
        if not sys.stdin.readline():
            sys.exit()
        self._first, self._begin = step, time.perf_counter()


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _plain(data: ImageData, channels_last: bool) -> None:
    import torch
    from torch import nn

    network = nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(576, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    images = torch.from_numpy(data.train.images.astype("float32")[:, None] / 255)
    labels = torch.from_numpy(data.train.labels.astype("int64"))
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters())
    criterion = nn.CrossEntropyLoss()
    pace, step = _Pace("channels_last" if channels_last else "contiguous"), 0
    while True:
        for rows in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            loss = criterion(network(images[rows]), labels[rows])
            loss.backward()
            optimizer.step()
            step += 1
            pace.tick(step)


def _recipe(data: ImageData) -> None:
    from lepton_training.recipes import RECIPES, ImageShape
    from lepton_training.worker.data import images
    from lepton_training.worker.memory import keep_freed_memory
    from lepton_training.worker.trainer import Trainer
    from lepton_training.worker.tuning import choose_plan

    keep_freed_memory()
    recipe = RECIPES["cnn"]
    hyperparameters: Any = recipe.hyperparameters(epochs=1000, batch_size=BATCH)
    network = recipe.build(hyperparameters, ImageShape(28, 28, 10))
    cpus = len(os.sched_getaffinity(0))
    problem = images.prepare(data, hyperparameters, seed=0)
    plan, _ = choose_plan(network, problem, hyperparameters, cpus=cpus)
    pace = _Pace(str(plan))
    Trainer(
        network,
        problem,
        hyperparameters,
        seed=0,
        plan=plan,
        cpus=cpus,
        report=lambda moment: pace.tick(moment.step),
    ).run()


def _loop(name: str, data_dir: Path) -> None:
    from lepton_training.worker.data import idx

    data = idx.load(data_dir)
    if name == "recipe":
        _recipe(data)
    else:
        _plain(data, channels_last=name == "plain_channels_last")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--loop"]:
        _loop(sys.argv[2], Path(sys.argv[3]))
    else:
        sys.stdout.write(json.dumps(run(sys.argv[1]), indent=1) + "\n")
