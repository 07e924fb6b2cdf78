"""What each part of one input makes of a model's output: Shapley values.

Shapley, "A Value for n-Person Games" (1953); for predictions Štrumbelj and Kononenko, "Explaining
prediction models and individual predictions with feature contributions" (2014). The model is asked
about inputs some of whose parts are absent, and nothing but its answers is used. A part's value is
what its presence changes, averaged over all orders in which the parts could be added: the values
add up to the difference between the input's output and that of none of its parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Game = Callable[[Array], Array]
"""From BOOL ``[N, parts]``, true where a part is there, to the output of each input, FP64
``[N]``."""

_PAIRS_MIN = 2
"""Fewer would say nothing of the error."""


@dataclass(frozen=True, slots=True)
class ShapleyValues:
    """Of the parts of one input."""

    values: Array
    """FP64 ``[parts]``."""
    errors: Array
    """The standard error of each value, FP64 ``[parts]``; 0 where all orders were counted."""
    output: float
    """With all parts."""
    baseline: float
    """With none."""
    asked: int
    """Inputs that the model was asked about."""


def shapley_values(game: Game, parts: int, *, budget: int, seed: int) -> ShapleyValues:
    """The values of ``parts``: exact where ``budget`` inputs are enough, else of random orders.

    Each random order counts with its reverse (antithetic sampling: Mitchell, Cooper, Frank and
    Holmes 2022, "Sampling Permutations for Shapley Value Estimation"). There are two such pairs at
    least, whatever the budget.

    Args:
        game: Asked once; it may ask the model in pieces.
        budget: Most inputs to ask about.
        seed: Of the orders.
    """
    if parts < budget.bit_length():  # 2**parts <= budget
        return _exact(game, parts)
    return _sampled(game, parts, budget, seed)


def _exact(game: Game, parts: int) -> ShapleyValues:
    """Of all subsets; the bits of a subset's number say which parts are in it."""
    subsets = np.arange(1 << parts)
    there = (subsets[:, None] >> np.arange(parts)) & 1 == 1
    outputs = game(there)
    sizes = there.sum(axis=1)
    weights = np.array([1 / (parts * math.comb(parts - 1, size)) for size in range(parts)])
    values = np.zeros(parts)
    for part in range(parts):
        without = subsets[~there[:, part]]
        gains = outputs[without | 1 << part] - outputs[without]
        values[part] = (weights[sizes[without]] * gains).sum()
    return ShapleyValues(
        values, np.zeros(parts), float(outputs[-1]), float(outputs[0]), len(subsets)
    )


def _sampled(game: Game, parts: int, budget: int, seed: int) -> ShapleyValues:
    """Of orders: the parts are added one by one; what comes before and after all is asked once."""
    pairs = max(_PAIRS_MIN, (budget - 2) // (2 * (parts - 1)))
    random = np.random.default_rng(seed)
    orders = np.array([random.permutation(parts) for _ in range(pairs)])
    orders = np.stack([orders, orders[:, ::-1]], axis=1).reshape(2 * pairs, parts)
    places = orders.argsort(axis=1)
    between = places[:, None, :] < np.arange(1, parts)[:, None]  # [orders, parts - 1, parts]
    ends = np.array([[False] * parts, [True] * parts])
    outputs = game(np.concatenate([ends, between.reshape(-1, parts)]))
    steps = np.empty((2 * pairs, parts + 1))
    steps[:, 0], steps[:, -1] = outputs[:2]
    steps[:, 1:-1] = outputs[2:].reshape(2 * pairs, parts - 1)
    gains = np.take_along_axis(np.diff(steps, axis=1), places, axis=1)
    of_pairs = gains.reshape(pairs, 2, parts).mean(axis=1)
    return ShapleyValues(
        of_pairs.mean(axis=0),
        of_pairs.std(axis=0, ddof=1) / math.sqrt(pairs),
        float(outputs[1]),
        float(outputs[0]),
        len(outputs),
    )
