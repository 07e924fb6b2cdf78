"""Reads a dataset version as its recipe's kind of data asks for."""

from __future__ import annotations

import importlib
from pathlib import Path

from lepton_training.spec import JobSpec
from lepton_training.worker.data.fitted import Fitted
from lepton_training.worker.data.problem import Problem


def load_problem(directory: Path, spec: JobSpec, fitted: Fitted | None = None) -> Problem:
    """The dataset version below ``directory``, prepared for the spec's recipe.

    Args:
        fitted: Of an earlier model, to be used in place of what would be fitted.

    Raises:
        DatasetInvalid: Names the file, what is wrong with it and what to do.
        JobSpecInvalid: The spec does not go with what is in the files.
        WarmStartMismatch: The files do not go with ``fitted``.
    """
    # Only what this kind of data needs: images start without ONNX, which takes a second to load.
    kind = spec.data_kind
    assert kind is not None, "own code without a kind of data reads its files itself"  # noqa: S101 - asked by no user
    loader = importlib.import_module(f"{__package__}.{kind.id}")
    problem: Problem = loader.load(directory, spec, fitted)
    return problem
