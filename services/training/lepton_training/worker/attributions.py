"""What made a model answer as it did, of single rows: integrated gradients (Sundararajan, Taly and
Yan 2017, "Axiomatic Attribution for Deep Networks").

Gradients of the served output are summed up on the straight way from a baseline to the row, with
respect to what the network is given once codes are vectors. An ONNX model that is served has none,
so the job's process does this, with the trained network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lepton_training.worker.data.problem import Problem

Array = npt.NDArray[Any]
Function = Callable[[Tensor], Tensor]
"""From points ``[N, ...]`` to a number each, ``[N]``."""

_FIRST_STEPS, _LAST_STEPS = 64, 1024
_TOLERANCE = 0.01
"""Of the change from the baseline, or of 0.01 where that is more; else steps are doubled."""
_POINTS_AT_ONCE = 64
_BASELINE_ROWS = 2000
_PARTS_MAX = 50
_PIXELS_MAX = 1024
"""Of an image whose attributions are kept as numbers."""


@runtime_checkable
class Embedding(Protocol):
    """A network that is given codes, in two parts: gradients are taken between them."""

    def embed(self, *inputs: Tensor) -> Tensor: ...

    def decide(self, embedded: Tensor, *inputs: Tensor) -> Tensor: ...


@runtime_checkable
class OfColumns(Embedding, Protocol):
    """One that is given rows of tables."""

    def sources(self, columns: Sequence[tuple[str, ...]]) -> tuple[str, ...]: ...


@runtime_checkable
class OfGrams(Embedding, Protocol):
    """One that embeds no tokens, but runs of them."""

    def spread(self, codes: Tensor, attributions: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of the input: a column, a token, a step of a series."""

    name: str
    value: str
    attribution: float
    """How much of the change from the baseline it makes."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Of one row of the test split."""

    row: int
    """Its place in the test split, from 0."""
    truth: str
    predicted: str
    output: float
    """What is explained: the probability of the predicted class, the number (of several steps
    their mean), the score."""
    baseline: float
    """The same of the baseline."""
    remainder: float
    """Of their difference, what the attributions do not add up to: numerical error."""
    parts: tuple[Part, ...]
    """The 50 largest at most, the largest first; none of images."""
    pixels: tuple[tuple[float, ...], ...] = ()
    """Attributions ``[height, width]`` of an image of 1,024 pixels at most."""


def integrated_gradients(function: Function, point: Tensor, baseline: Tensor) -> tuple[Tensor, int]:
    """The attributions of ``point`` ``[...]``, and the steps it took to have them add up.

    Midpoints of equal steps; twice as many until the sum is what ``function`` changes by.
    """
    with torch.no_grad():
        ends = function(torch.stack([baseline, point]))
    change = float(ends[1] - ends[0])
    steps = _FIRST_STEPS
    while True:
        attributions = (point - baseline) * _mean_gradient(function, point, baseline, steps)
        missing = abs(float(attributions.sum()) - change)
        if missing <= _TOLERANCE * max(abs(change), 0.01) or steps >= _LAST_STEPS:
            return attributions, steps
        steps *= 2


def _mean_gradient(function: Function, point: Tensor, baseline: Tensor, steps: int) -> Tensor:
    total = torch.zeros_like(point)
    shares = (torch.arange(steps, dtype=point.dtype) + 0.5) / steps
    for begin in range(0, steps, _POINTS_AT_ONCE):
        share = shares[begin : begin + _POINTS_AT_ONCE].reshape(-1, *[1] * point.dim())
        way = (baseline + share * (point - baseline)).requires_grad_()
        (gradient,) = torch.autograd.grad(function(way).sum(), way)
        total += gradient.sum(dim=0)
    return total / steps


def explain(
    network: nn.Module, problem: Problem, outputs: Array, *, count: int, seed: int
) -> tuple[list[Explanation], list[Array]]:
    """Explains ``count`` rows of the test split: half of them those that the model is most wrong
    about, the others by chance.

    Args:
        outputs: Of the test split, after the activation.

    Returns:
        A row each; and of images the attributions FP32 ``[height, width]`` of each.
    """
    network.eval()
    baseline = _baseline(network, problem)
    found, pictures = [], []
    for row in _rows(problem, outputs, count, seed):
        inputs = problem.test.inputs(slice(row, row + 1))
        answer = outputs[row]
        label = int(answer.argmax()) if problem.objective.kind == "classification" else None
        function = _function(network, problem, inputs, label)
        point = _embed(network, inputs)[0].detach()
        start = torch.zeros_like(point) if baseline is None else baseline
        attributions, _ = integrated_gradients(function, point, start)
        with torch.no_grad():
            low, high = function(torch.stack([start, point])).tolist()
        values = attributions.numpy()
        pixels: tuple[tuple[float, ...], ...] = ()
        if _is_image(point):
            each = values.sum(axis=0)  # over the colors
            pictures.append(each)
            if each.size <= _PIXELS_MAX:
                pixels = tuple(map(tuple, np.round(each.astype(float), 6).tolist()))
        parts = sorted(
            _parts(network, problem, row, inputs, attributions), key=lambda p: -abs(p.attribution)
        )
        found.append(
            Explanation(
                row=row,
                truth=_named(problem, problem.test.targets[row].numpy()),
                predicted=_named(problem, np.asarray(label) if label is not None else answer),
                output=high,
                baseline=low,
                remainder=high - low - float(values.sum(dtype=np.float64)),
                parts=tuple(parts[:_PARTS_MAX]),
                pixels=pixels,
            )
        )
    return found, pictures


def _rows(problem: Problem, outputs: Array, count: int, seed: int) -> list[int]:
    targets = problem.test.targets.numpy()
    every = len(targets)
    if problem.objective.kind == "classification":
        loss = -outputs[np.arange(every), targets]
    elif problem.objective.kind == "anomaly":  # a normal row with a high score, or the reverse
        ranks = outputs.reshape(every).argsort().argsort() / every
        loss = np.abs(targets - ranks)
    else:
        loss = np.abs(outputs - targets).reshape(every, -1).mean(axis=1)
    worst = np.argsort(-loss, kind="stable")[: min((count + 1) // 2, every)]
    others = np.setdiff1d(np.arange(every), worst)
    chance = np.random.default_rng(seed).permutation(others)[: count - len(worst)]
    return [int(row) for row in (*worst, *chance)]


def _embed(network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """FP32, where gradients are taken: the inputs themselves where they are no codes."""
    with torch.no_grad():
        return network.embed(*inputs) if isinstance(network, Embedding) else inputs[0]


def _function(
    network: nn.Module, problem: Problem, inputs: tuple[Tensor, ...], label: int | None
) -> Function:
    """What is served for a row, of which only what is embedded changes."""

    def function(points: Tensor) -> Tensor:
        if isinstance(network, Embedding):
            others = tuple(tensor.expand(len(points), *tensor.shape[1:]) for tensor in inputs)
            answers = network.decide(points, *others)
        else:
            answers = network(points)
        served = problem.objective.activation(answers)
        return served[:, label] if label is not None else served.flatten(1).mean(dim=1)

    return function


def _baseline(network: nn.Module, problem: Problem) -> Tensor | None:
    """The mean row of training for tables; None for zeros: black, a scaled mean, no word."""
    if not isinstance(network, OfColumns):
        return None
    some = slice(0, min(len(problem.train), _BASELINE_ROWS))
    return _embed(network, problem.train.inputs(some)).mean(dim=0)


def _parts(
    network: nn.Module,
    problem: Problem,
    row: int,
    inputs: tuple[Tensor, ...],
    attributions: Tensor,
) -> Iterator[Part]:
    if isinstance(network, OfColumns):
        yield from _column_parts(network.sources(problem.columns), problem, row, attributions)
    elif problem.tokens:
        each = attributions.sum(dim=-1)
        if isinstance(network, OfGrams):
            each = network.spread(inputs[0], attributions)
        yield from _token_parts(problem.tokens, inputs[0][0], each)
    elif problem.columns:
        window = len(attributions)
        for step, line in enumerate(attributions.tolist()):
            for name, value in zip(problem.columns[0], line, strict=True):
                yield Part(f"{name}, {window - step} before", "", value)


def _column_parts(
    sources: tuple[str, ...], problem: Problem, row: int, attributions: Tensor
) -> Iterator[Part]:
    sums: dict[str, float] = {}
    for name, value in zip(sources, attributions.tolist(), strict=True):
        sums[name] = sums.get(name, 0.0) + value
    for name, value in sums.items():
        raw = problem.raw_test[name][row, 0]
        yield Part(name, raw.strip() if isinstance(raw, str) else f"{raw:g}", value)


def _token_parts(tokens: tuple[str, ...], codes: Tensor, each: Tensor) -> Iterator[Part]:
    for place, (code, value) in enumerate(zip(codes.tolist(), each.tolist(), strict=True)):
        if code:  # else padding
            known = code - 2
            yield Part(f"token {place}", tokens[known] if known >= 0 else "(unknown)", value)


def _is_image(point: Tensor) -> bool:
    return point.dim() == 3


def _named(problem: Problem, value: Array) -> str:
    if problem.class_names:
        return problem.class_names[int(value)]
    if problem.objective.kind == "anomaly" and value.ndim == 0:
        return "anomaly" if value else "normal"
    return ", ".join(f"{each:.6g}" for each in np.atleast_1d(value).tolist())
