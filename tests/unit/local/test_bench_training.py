"""The arithmetic of ``make bench-training``, and what it measures."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import training, training_epochs
from bench.training_platform import Moments, overhead_of
from lepton_training.recipes import RECIPES

SPECS = Path("docs/examples")


def test_the_recipe_is_compared_with_the_best_plain_loop_round_by_round() -> None:
    """A round in which all were slow counts like any other."""
    rounds = {
        "plain_contiguous": [12.0, 24.0, 12.0],
        "plain_channels_last": [10.0, 20.0, 10.0],
        "recipe": [8.0, 16.0, 10.0],
    }
    found = training_epochs.figures(rounds)
    assert found["seconds_per_epoch"] == {
        "plain_contiguous": 12.0,
        "plain_channels_last": 10.0,
        "recipe": 10.0,
    }
    assert found["times_faster_than_best_plain"] == 1.25
    assert found["times_faster_than_contiguous"] == 1.5


def test_only_networks_with_convolutions_have_a_loop_in_channels_last() -> None:
    """Elsewhere the memory format changes nothing."""
    assert training_epochs.loops_of(SPECS / "mnist-cnn.yaml") == [
        *("plain_contiguous", "plain_channels_last", "recipe")
    ]
    assert training_epochs.loops_of(SPECS / "adult.yaml") == [
        *("plain_contiguous", "plain_one_thread", "recipe")
    ]


def test_every_recipe_is_measured() -> None:
    """By the example that stands for it."""
    assert set(training.specs_by_recipe()) == set(RECIPES)


def test_overhead_is_what_lies_before_the_first_step_and_after_the_last() -> None:
    """Medians of the rounds; six seconds together are the aim."""
    moments = [Moments(100.0, 102.0, 110.0, 111.0 + extra) for extra in (0.0, 0.5, 9.0)]
    found = overhead_of(moments)
    assert found["submit_to_first_step_seconds"] == 2.0
    assert found["last_step_to_registered_seconds"] == 1.5
    assert found["together_seconds"] == 3.5
    assert found["met"] is True
    assert overhead_of(moments[2:])["met"] is False


def test_a_recipe_without_data_is_told(tmp_path: Path) -> None:
    """With where its data is to be had; there is no figure for it."""
    found = training.epochs(tmp_path, ("tabular",), rounds=1, round_seconds=0.1)
    assert "adult-train.csv" in found["tabular"]["error"]
    assert "adult-train.csv" in training.summary({"epochs": found})


@pytest.mark.parametrize("name", [example.name for example in training.EXAMPLES])
def test_specs_are_where_the_bench_looks(name: str) -> None:
    """It runs from the repository's root, as the tests do."""
    assert (training.SPECS / f"{name}.yaml").is_file()
