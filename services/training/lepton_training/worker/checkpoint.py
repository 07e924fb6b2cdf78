"""Where a job's training stands, on disk, so that a killed process can go on from there."""

from __future__ import annotations

import math
import os
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch

from lepton_training.worker.devices import CPU
from lepton_training.worker.tuning import Plan


@dataclass(frozen=True, slots=True)
class Watched:
    """The loss by which early stopping and the plateau schedule go, from epoch to epoch."""

    best_loss: float = math.inf
    best_epoch: int = 0
    """From 1; 0 before the first epoch's end."""
    decays: int = 0
    """Of the learning rate."""
    decayed: int = 0
    """The epoch of the last decay, or of the best loss if that was later."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that the next step depends on; random numbers derive from seed and step."""

    step: int
    """Optimizer steps taken."""
    plan: Plan
    model: dict[str, Any]
    optimizer: dict[str, Any]
    epoch_seconds: tuple[float, ...]
    """Of the finished epochs."""
    partial_seconds: float
    """Spent in the epoch that is under way."""
    loss_sum: float
    """Over the examples of the epoch that is under way."""
    correct: int
    watched: Watched = Watched()
    average: dict[str, Any] | None = None
    """Of the weights, where an exponential moving average is kept."""
    best: dict[str, Any] | None = None
    """Weights of the best epoch so far, where training may stop early."""


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Replaces the checkpoint at ``path``; a crash leaves the old one or the new one."""
    content = {name: getattr(checkpoint, name) for name in Checkpoint.__slots__} | {
        "plan": astuple(checkpoint.plan),
        "watched": astuple(checkpoint.watched),
    }
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path) -> Checkpoint | None:
    """The checkpoint at ``path``, or None without one."""
    if not path.exists():
        return None
    # Wherever it was written: it may be gone on with on a machine without a GPU.
    content = torch.load(path, weights_only=True, map_location=CPU)
    content["epoch_seconds"] = tuple(content["epoch_seconds"])
    plan, watched = content.pop("plan"), content.pop("watched", ())
    return Checkpoint(plan=Plan(*plan), watched=Watched(*watched), **content)
