"""Shapley values: what they are by definition, exactly and by random orders."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lepton.evaluation.shapley import Array, shapley_values


def crossed(there: Array) -> Array:
    """A game in which parts work together, 7 of them."""
    x = there.astype(float)
    return 3 * x[:, 0] - 2 * x[:, 1] * x[:, 2] + x[:, 3] * x[:, 4] * x[:, 5] + 0.5


def by_definition(parts: int) -> Array:
    """The mean gain of each part of ``crossed`` over all orders."""
    values = np.zeros(parts)
    orders = list(itertools.permutations(range(parts)))
    for order in orders:
        there = np.zeros((parts + 1, parts), bool)
        for step, part in enumerate(order):
            there[step + 1 :, part] = True
        outputs = crossed(there)
        values[list(order)] += np.diff(outputs)
    return values / len(orders)


def test_values_are_the_mean_gain_over_all_orders() -> None:
    """Of a game with parts that work together, and one that does nothing."""
    found = shapley_values(crossed, 7, budget=128, seed=0)
    assert found.values == pytest.approx(by_definition(7))
    assert found.values == pytest.approx([3, -1, -1, 1 / 3, 1 / 3, 1 / 3, 0])
    assert not found.errors.any()
    assert (found.output, found.baseline, found.asked) == (2.5, 0.5, 128)


@pytest.mark.parametrize("parts", [7, 40])
def test_random_orders_come_near(parts: int) -> None:
    """Within a few of the errors that are told, and they add up to the change exactly."""
    found = shapley_values(crossed, parts, budget=100 if parts == 7 else 4000, seed=3)
    wanted = np.r_[[3, -1, -1, 1 / 3, 1 / 3, 1 / 3], np.zeros(parts - 6)]
    assert found.values.sum() == pytest.approx(found.output - found.baseline)
    assert (np.abs(found.values - wanted) <= 4 * found.errors + 1e-9).all()
    assert found.errors[[3, 4, 5]].max() > 0
    # An order and its reverse are exact of parts that are alone, or work together in twos.
    assert not found.errors[[0, 1, 2, 6]].any()
    assert found.asked <= (100 if parts == 7 else 4000)


def test_a_seed_gives_the_same_orders() -> None:
    """Another one gives others."""
    first, again, other = (
        shapley_values(crossed, 20, budget=200, seed=seed).values for seed in (1, 1, 2)
    )
    assert first.tolist() == again.tolist() != other.tolist()


def test_more_rows_make_the_error_smaller() -> None:
    small, large = (shapley_values(crossed, 20, budget=n, seed=0).errors for n in (400, 40_000))
    assert large[[3, 4, 5]].max() < small[[3, 4, 5]].min()


@pytest.mark.parametrize("parts", [0, 1, 2])
def test_few_parts_are_no_trouble(parts: int) -> None:
    """Nor a budget that is too small for two pairs of orders."""

    def total(there: Array) -> Array:
        return there.sum(axis=1).astype(float)

    assert shapley_values(total, parts, budget=2, seed=0).values.tolist() == [1.0] * parts
    many = shapley_values(total, 50, budget=2, seed=0)
    assert many.values == pytest.approx(np.ones(50))
