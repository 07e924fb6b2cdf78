"""Seconds per epoch of a recipe's loop beside plain PyTorch loops, in one run.

    python -m bench.training_epochs docs/examples/mnist-cnn.yaml <folder with its data>

Every loop trains on the same data with the same batches' size, loss and kind of optimizer, in a
process of its own, since what one does to the C allocator would help the others. The processes
take turns, a few rounds of some seconds each, so that a neighbour's burst on a shared machine hits
them alike; the figure is the median of the rounds, scaled to an epoch.

plain loops: ``bench.plain_loops``, contiguous, and channels_last where there are convolutions; else
with one thread, which small networks are often faster with.
recipe: the loop that jobs run, metrics and all, with the plan it chose itself. What follows an
epoch, such as the glance at the test split, is left out: plain loops have none.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import program

if TYPE_CHECKING:
    from torch import Tensor

    from lepton_training.worker.data.examples import Examples
    from lepton_training.worker.data.problem import Problem

CONTIGUOUS, ONE_THREAD = "plain_contiguous", "plain_one_thread"
CHANNELS_LAST, RECIPE = "plain_channels_last", "recipe"
WITH_CONVOLUTIONS = frozenset({"cnn", "resnet", "dcgan"})
ROUNDS, ROUND_SECONDS, WARM_STEPS = 5, 3.0, 40
"""Warm steps are those in which the recipe first tries how many threads to use."""


@dataclass(frozen=True, slots=True)
class Task:
    """What all loops train: a spec and its data, read."""

    recipe: str
    hyperparameters: Any
    problem: Problem
    seed: int

    @property
    def steps_per_epoch(self) -> float:
        return len(self.problem.train) / float(self.hyperparameters.batch_size)


def run(
    spec: Path, data: Path, *, rounds: int = ROUNDS, round_seconds: float = ROUND_SECONDS
) -> dict[str, Any]:
    """Median seconds per epoch of each loop, and the recipe's advantage over the best plain one.

    Args:
        spec: A job's spec, YAML.
        data: The folder with the files of its dataset.
        rounds: How many turns each loop has.
        round_seconds: What a turn lasts at least; it ends with a step.
    """
    workers: dict[str, subprocess.Popen[str]] = {}
    ready = {}
    try:
        for name in loops_of(spec):  # one after the other: the recipe measures while it starts
            workers[name] = _start(name, spec, data, round_seconds)
            ready[name] = _answer(workers[name])
        taken: dict[str, list[float]] = {name: [] for name in workers}
        for number in range(rounds):
            for name in list(workers)[:: -1 if number % 2 else 1]:
                worker = workers[name]
                assert worker.stdin is not None
                worker.stdin.write("go\n")
                worker.stdin.flush()
                taken[name].append(_answer(worker)["seconds_per_epoch"])
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()
    return {**figures(taken), "recipe_plan": ready[RECIPE]["plan"]}


def loops_of(spec: Path) -> list[str]:
    """The loops that there are for a spec."""
    from lepton.cli.documents import read_mapping

    convolutions = read_mapping(spec, "recipe").get("recipe") in WITH_CONVOLUTIONS
    return [CONTIGUOUS, CHANNELS_LAST if convolutions else ONE_THREAD, RECIPE]


def figures(taken: dict[str, list[float]]) -> dict[str, Any]:
    """Medians of the rounds' seconds per epoch, and what they are to each other.

    Ratios are medians over the rounds' ratios, since all loops of a round met the same machine.
    """

    def faster_than(plain: str) -> float:
        pairs = zip(taken[plain], taken[RECIPE], strict=True)
        return round(statistics.median(theirs / ours for theirs, ours in pairs), 2)

    medians = {name: statistics.median(values) for name, values in taken.items()}
    best = min((name for name in taken if name != RECIPE), key=lambda name: medians[name])
    return {
        "seconds_per_epoch": {name: round(value, 3) for name, value in medians.items()},
        "rounds": {name: [round(value, 3) for value in values] for name, values in taken.items()},
        "times_faster_than_best_plain": faster_than(best),
        "times_faster_than_contiguous": faster_than(CONTIGUOUS),
    }


def read_task(spec: Path, data: Path) -> Task:
    """The spec with an epoch that never ends, and its data."""
    from lepton.cli.documents import read_mapping
    from lepton_training.recipes.fitting import batch_size_for
    from lepton_training.spec import parse_spec
    from lepton_training.worker.data.loading import load_problem

    document = read_mapping(spec, "recipe and dataset")
    # All of the training split is trained on, for as long as the loop is let.
    settings = document.get("hyperparameters", {}) | {"epochs": 10_000}
    settings = {k: v for k, v in settings.items() if k not in ("validation", "early_stopping")}
    parsed = parse_spec(
        {**document, "hyperparameters": settings}, cores=len(os.sched_getaffinity(0))
    )
    problem = load_problem(data, parsed)
    hyperparameters: Any = parsed.hyperparameters
    size = hyperparameters.batch_size or batch_size_for(len(problem.train))
    hyperparameters = hyperparameters.model_copy(update={"batch_size": size})
    problem = replace(problem, test=_First(problem.test), after_epoch=None)
    return Task(parsed.recipe, hyperparameters, problem, parsed.seed)


class _First:
    """``Examples``: the first of others alone, so that an epoch's glance at them takes no time."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self.targets = examples.targets[:1]

    def __len__(self) -> int:
        return 1

    def inputs(self, rows: Tensor | slice) -> tuple[Tensor, ...]:
        return self._examples.inputs(slice(0, 1))

    def augmentations(self, steps: int, generator: Any) -> list[Any]:
        return [None] * steps

    def augmented(self, rows: Tensor, augmentation: Any) -> tuple[Tensor, ...]:
        return self.inputs(rows)

    def augmented_targets(self, rows: Tensor, augmentation: Any) -> Tensor:
        return self.targets[rows]


class Pace:
    """Lets a loop run a round for every line that comes in, and says how long it took."""

    def __init__(self, plan: str, steps_per_epoch: float, round_seconds: float) -> None:
        self._plan = plan
        self._steps_per_epoch = steps_per_epoch
        self._round_seconds = round_seconds
        self._first = 0
        self._begin = 0.0

    def tick(self, step: int) -> None:
        """Called by the loop with its steps so far; returns when it shall go on."""
        if not self._begin:
            if step < WARM_STEPS:
                return
            _say({"plan": self._plan})
        else:
            seconds = time.perf_counter() - self._begin
            if seconds < self._round_seconds or step == self._first:
                return
            _say({"seconds_per_epoch": seconds / (step - self._first) * self._steps_per_epoch})
        if not sys.stdin.readline():
            sys.exit()
        self._first, self._begin = step, time.perf_counter()


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _start(name: str, spec: Path, data: Path, round_seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "bench.training_epochs", "--loop", name),
            *(str(spec), str(data), str(round_seconds)),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal's Ctrl-C is for the program that ends this one
    )


def _answer(worker: subprocess.Popen[str]) -> dict[str, Any]:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"a loop's process ended with status {worker.wait()}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _recipe(task: Task, round_seconds: float) -> None:
    from lepton_training.recipes import RECIPES
    from lepton_training.worker.memory import keep_freed_memory
    from lepton_training.worker.trainer import Trainer
    from lepton_training.worker.tuning import choose_plan

    keep_freed_memory()
    network = RECIPES[task.recipe].build(task.hyperparameters, task.problem.shape)
    cpus = len(os.sched_getaffinity(0))
    plan, _ = choose_plan(network, task.problem, task.hyperparameters, cpus=cpus)
    pace = Pace(str(plan), task.steps_per_epoch, round_seconds)
    Trainer(
        network,
        task.problem,
        task.hyperparameters,
        seed=task.seed,
        plan=plan,
        cpus=cpus,
        report=lambda moment: pace.tick(moment.step),
    ).run()


def _loop(name: str, spec: Path, data: Path, round_seconds: float) -> None:
    task = read_task(spec, data)
    if name == RECIPE:
        _recipe(task, round_seconds)
        return
    import torch

    from bench.plain_loops import plain

    if name == ONE_THREAD:
        torch.set_num_threads(1)
    pace = Pace(name, task.steps_per_epoch, round_seconds)
    plain(task, pace.tick, channels_last=name == CHANNELS_LAST)


def _main() -> None:
    sys.stdout.write(json.dumps(run(Path(sys.argv[1]), Path(sys.argv[2])), indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--loop"]:
        _loop(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), float(sys.argv[5]))
    else:
        program.run(_main)
