"""Chooses memory format and threads by measurements on the job's own model and data."""

from __future__ import annotations

import copy
import logging
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from lepton_training.recipes.fitting import FitHyperparameters
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.devices import CPU
from lepton_training.worker.learner import make_learner

log = logging.getLogger(__name__)

_ROUNDS = 4
_ROUND_STEPS = 3
_HOPELESS = 1.5
"""A challenger this much slower than the best gets no more turns in this trial."""
_CLEARLY = 0.9
"""Another candidate is taken only if it needs less than this share of the usual one's time."""
_TRIAL_SECONDS = 10.0
"""Between two trials of the threads."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the training loop runs."""

    threads: int
    channels_last: bool
    device: str = CPU
    """Where the network is while it is trained, and so what it is given."""

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def arranged(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A network's inputs on the plan's device; images in its memory format."""

        def placed(tensor: Tensor) -> Tensor:
            if tensor.dim() == 4:
                tensor = tensor.contiguous(memory_format=self.memory_format)
            return tensor.to(self.device)

        return tuple(placed(tensor) for tensor in inputs)

    def __str__(self) -> str:
        layout = "channels_last" if self.channels_last else "contiguous"
        where = f", on {self.device}" if self.device != CPU else ""
        return f"{layout}, {self.threads} thread{'s' * (self.threads > 1)}{where}"


def fixed_plan(network: nn.Module, *, cpus: int, device: str = CPU) -> Plan:
    """The plan that usually wins, without a measurement, whose outcome would vary."""
    return Plan(cpus, _has_convolutions(network), device)


def choose_plan(
    network: nn.Module, problem: Problem, hyperparameters: FitHyperparameters, *, cpus: int
) -> tuple[Plan, dict[Plan, float]]:
    """A plan with all ``cpus`` and the better memory format, and milliseconds per step of each.

    The candidates take turns and each counts by its fastest step: a neighbour's burst on a
    shared machine then decides nothing. ``network`` is not changed. How many threads are worth
    having changes with the neighbours: :class:`ThreadTuner` decides that while training runs.
    """
    rows = slice(hyperparameters.batch_size)
    batch, targets = problem.train.inputs(rows), problem.train.targets[rows]
    # The first is the one that usually wins.
    formats = [True, False] if _has_convolutions(network) else [False]
    plans = [Plan(cpus, channels_last) for channels_last in formats]
    contenders = []
    for plan in plans:
        candidate = copy.deepcopy(network).to(memory_format=plan.memory_format)  # type: ignore[call-overload]  # Module.to's stub lacks this form
        candidate.train()
        contenders.append((plan, make_learner(candidate, problem.objective, hyperparameters)))
    best = dict.fromkeys(plans, float("inf"))
    torch.set_num_threads(cpus)
    for _ in range(_ROUNDS if len(plans) > 1 else 0):
        for plan, learner in contenders:
            for step in range(1 + _ROUND_STEPS):
                begin = time.perf_counter()
                learner.step(plan.arranged(batch), targets, rate=hyperparameters.learning_rate)
                if step > 0:  # the first one finds cold caches and, once, builds its kernels
                    best[plan] = min(best[plan], (time.perf_counter() - begin) * 1e3)
    return _clear_winner(best, plans[0]), best


class ThreadTuner:
    """Keeps the number of threads that takes steps fastest, for as long as training runs.

    The steps of training are the measurement, so that it costs next to nothing: every now and
    then the candidates take turns of a few steps, and the median step decides. Measured with
    the CNN on two cores: alone 9 ms a step with two threads and 16 with one; beside a busy
    neighbour 30 to 80 ms with two, which wait for each other, and 18 with one.
    """

    def __init__(self, threads: int, cpus: int, *, fixed: bool = False) -> None:
        """Begins with ``threads``; the first trial is due at once, and never when ``fixed``."""
        self.threads = threads
        others = set() if fixed else {cpus, max(1, cpus // 2), 1}
        self._candidates = sorted({threads} | others, reverse=True)
        self._turns: list[int] = []
        self._turn_steps = 0
        self._took: dict[int, list[float]] = {}
        self._due = 0.0
        torch.set_num_threads(threads)

    def step_took(self, seconds: float) -> None:
        """Called after each step, with what it took; the next may have other threads."""
        if not self._turns:
            if len(self._candidates) > 1 and time.perf_counter() >= self._due:
                self._turns = self._candidates * _ROUNDS
                self._took = {threads: [] for threads in self._candidates}
                self._begin_turn()
            return
        self._turn_steps += 1
        if self._turn_steps > 1:  # the first one after a change finds cold caches
            self._took[self._turns[0]].append(seconds * 1e3)
        if self._turn_steps <= _ROUND_STEPS:
            return
        self._turns.pop(0)
        medians = {n: statistics.median(took) for n, took in self._took.items() if took}
        fastest = min(medians.values())
        self._turns = [
            n
            for n in self._turns
            if n == self.threads or medians.get(n, 0.0) <= _HOPELESS * fastest
        ]
        if len(set(self._turns)) > 1 or len(medians) < len(self._candidates):
            self._begin_turn()
        else:
            self._decide(medians)

    def _begin_turn(self) -> None:
        self._turn_steps = 0
        torch.set_num_threads(self._turns[0])

    def _decide(self, medians: dict[int, float]) -> None:
        self._turns = []
        chosen = _clear_winner(medians, self.threads)
        if chosen != self.threads:
            told = "; ".join(f"{n}: {took:.1f}" for n, took in medians.items())
            log.info("threads from here on: %d, by ms a step: %s", chosen, told)
        self.threads = chosen
        torch.set_num_threads(chosen)
        self._due = time.perf_counter() + _TRIAL_SECONDS


K = TypeVar("K")


def _clear_winner(milliseconds: Mapping[K, float], usual: K) -> K:
    """The fastest, if it is clearly faster than the usual one."""
    fastest = min(milliseconds, key=lambda one: milliseconds[one])
    return fastest if milliseconds[fastest] < _CLEARLY * milliseconds[usual] else usual


def _has_convolutions(network: nn.Module) -> bool:
    return any(isinstance(module, nn.Conv2d) for module in network.modules())
