"""Whether a registered version is one that a job can begin with."""

from __future__ import annotations

from lepton_training.ports import ModelVersion
from lepton_training.recipes import RECIPES
from lepton_training.recipes.hyperparameters import Fault
from lepton_training.spec import JobSpecInvalid
from lepton_training.warm_start import PAPERS_FILE, WEIGHTS_FILE


def check_origin(version: ModelVersion, recipe: str) -> None:
    """Raises JobSpecInvalid where a job of ``recipe`` cannot begin with ``version``."""
    wrong = ""
    origin = RECIPES.get(version.recipe)
    if not {WEIGHTS_FILE, PAPERS_FILE} <= version.attachments.keys():
        wrong = (
            f"{version.name} has no weights to begin with: a model that was imported, or that an "
            "earlier release trained, has none; train it again"
        )
    elif origin is None:
        wrong = f"{version.name} was not trained by a recipe"
    elif origin.data.id != RECIPES[recipe].data.id:
        wrong = (
            f"{version.name} was trained by recipe '{version.recipe}' on {origin.data.id}, and "
            f"'{recipe}' trains on {RECIPES[recipe].data.id}"
        )
    if wrong:
        raise JobSpecInvalid([Fault("spec.warm_start.model_version", wrong)])
