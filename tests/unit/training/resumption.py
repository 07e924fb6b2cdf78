"""A training that is killed in mid-epoch, beside one that is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lepton_training.recipes import RECIPES
from lepton_training.worker import checkpoint
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.trainer import Moment, Trainer
from tests.training_jobs import PLAN


def assert_resumed_alike(
    recipe: str,
    hyperparameters: Any,
    problem_of: Callable[[], Problem],
    step: int,
    folder: Path,
) -> None:
    """Killed after ``step`` and resumed from its checkpoint, it ends with the same weights."""

    def trainer(path: Path | None) -> tuple[torch.nn.Module, Trainer]:
        problem = problem_of()
        torch.manual_seed(0)
        network = RECIPES[recipe].build(hyperparameters, problem.shape)
        return network, Trainer(
            network,
            problem,
            hyperparameters,
            seed=1,
            plan=PLAN,
            report=lambda _: None,
            checkpoint_path=path,
            report_seconds=0,
            checkpoint_seconds=0,
        )

    def interrupt(moment: Moment) -> None:
        if moment.step == step + 1:
            raise KeyboardInterrupt

    whole, running = trainer(None)
    running.run()
    path = folder / "checkpoint.pt"
    _, running = trainer(path)
    running._report = interrupt
    with pytest.raises(KeyboardInterrupt):
        running.run()
    state = checkpoint.load(path)
    assert state is not None and state.step == step
    resumed, running = trainer(path)
    running.resume(state)
    running.run()
    for (name, expected), found in zip(
        whole.state_dict().items(), resumed.state_dict().values(), strict=True
    ):
        assert torch.equal(expected, found), name
