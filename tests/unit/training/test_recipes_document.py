"""docs/recipes.md tells of every recipe and setting, and the examples are specs without faults."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from lepton_training.evaluation_settings import EvaluationSettings
from lepton_training.recipes import CARDS, RECIPES
from lepton_training.recipes.hyperparameters import Described, describe
from lepton_training.spec import parse_spec

DOCS = Path(__file__).parents[3] / "docs"
_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| (.*?) \| (.*) \|$", re.MULTILINE)


def row(one: Described) -> tuple[str, str, str, str]:
    """A setting as a row of the document's tables."""
    default = f"`{one.default_json}`" if one.default_json else "must be given"
    return one.name, one.type, default, one.description


def test_every_recipe_has_a_card_and_a_section() -> None:
    """The card is also what `lepton job recipes NAME` shows."""
    sections = re.findall(r"^### `(\w+)`$", (DOCS / "recipes.md").read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(RECIPES)
    assert all(len(card) > 80 for card in CARDS.values())


def test_every_setting_is_described_as_in_the_code() -> None:
    """Name, type, default and meaning; nothing is described that is not there."""
    rows = set(_ROW.findall((DOCS / "recipes.md").read_text()))
    declared = {
        row(one)
        for recipe in RECIPES.values()
        for settings in (recipe.hyperparameters, recipe.data.settings)
        for one in describe(settings)
    }
    assert declared - rows == set()
    assert rows - declared == set()


def test_every_setting_of_the_evaluation_is_described_as_in_the_code() -> None:
    """In the document of its own."""
    rows = set(_ROW.findall((DOCS / "evaluation.md").read_text()))
    assert rows == {row(one) for one in describe(EvaluationSettings)}


@pytest.mark.parametrize("path", sorted((DOCS / "examples").glob("*.yaml")), ids=lambda p: p.stem)
def test_examples_are_specs_without_faults(path: Path) -> None:
    """As a user would copy them."""
    parse_spec(yaml.safe_load(path.read_text()), cores=1)
    assert path.name in (DOCS / "recipes.md").read_text()
