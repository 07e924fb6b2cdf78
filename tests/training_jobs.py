"""The parts of a training job, one by one, for tests of kinds of data and recipes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lepton_training.recipes import RECIPES
from lepton_training.spec import JobSpec, parse_spec
from lepton_training.worker import export
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.export_request import ExportRequest
from lepton_training.worker.trainer import Trainer
from lepton_training.worker.tuning import Plan

PLAN = Plan(1, False)


def spec_of(data: dict[str, Any], recipe: str = "tabular", **hyperparameters: Any) -> JobSpec:
    """A spec without faults; raises JobSpecInvalid."""
    document = {
        "recipe": recipe,
        "dataset": "datasets/d/versions/1",
        "model": "models/m",
        "data": data,
        "hyperparameters": hyperparameters,
    }
    return parse_spec(document, cores=1)


def trained(problem: Problem, spec: JobSpec) -> torch.nn.Module:
    """The recipe's network, trained."""
    hyperparameters: Any = spec.hyperparameters
    torch.manual_seed(0)
    network = RECIPES[spec.recipe].build(hyperparameters, problem.shape)
    Trainer(network, problem, hyperparameters, seed=0, plan=PLAN, report=lambda _: None).run()
    return network


def exported(
    directory: Path, problem: Problem, spec: JobSpec, network: torch.nn.Module
) -> dict[str, Any]:
    """Writes ``model.onnx`` in ``directory`` as a job does; returns the parity report."""
    directory.mkdir(exist_ok=True)
    torch.save(network.state_dict(), directory / "weights.pt")
    np.savez(directory / "rows.npz", allow_pickle=True, **problem.raw_rows)
    more_rows = [f"rows-{number}.npz" for number in range(len(problem.more_rows))]
    for name, rows in zip(more_rows, problem.more_rows, strict=True):
        np.savez(directory / name, allow_pickle=True, **rows)
    if problem.preprocessing is not None:
        (directory / "preprocessing.onnx").write_bytes(problem.preprocessing)
    request = ExportRequest(
        recipe=spec.recipe,
        hyperparameters=spec.hyperparameters.model_dump(),
        shape=dataclasses.asdict(problem.shape),
        activation=dataclasses.asdict(problem.objective.activation),
        output=problem.outputs[0].name,
        weights="weights.pt",
        rows="rows.npz",
        preprocessing="preprocessing.onnx" if problem.preprocessing is not None else "",
        more_rows=more_rows,
    )
    return export.export(
        directory, ExportRequest(**json.loads(json.dumps(dataclasses.asdict(request))))
    )
