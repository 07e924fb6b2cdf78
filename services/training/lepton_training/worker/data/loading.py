"""Reads a dataset version as its recipe's kind of data asks for."""

from __future__ import annotations

import importlib
from pathlib import Path

from lepton_training.recipes import RECIPES
from lepton_training.spec import JobSpec
from lepton_training.worker.data.problem import Problem


def load_problem(directory: Path, spec: JobSpec) -> Problem:
    """The dataset version below ``directory``, prepared for the spec's recipe.

    Raises:
        DatasetInvalid: Names the file, what is wrong with it and what to do.
        JobSpecInvalid: The spec does not go with what is in the files.
    """
    # Only what this kind of data needs: images start without ONNX, which takes a second to load.
    loader = importlib.import_module(f"{__package__}.{RECIPES[spec.recipe].data.id}")
    problem: Problem = loader.load(directory, spec)
    return problem
