"""Where a job's training stands, on disk, so that a killed process can go on from there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lepton_training.worker.tuning import Plan


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


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Replaces the checkpoint at ``path``; a crash leaves the old one or the new one."""
    content = {
        name: getattr(checkpoint, name) for name in Checkpoint.__slots__ if name != "plan"
    } | {"plan": (checkpoint.plan.threads, checkpoint.plan.channels_last)}
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
    content = torch.load(path, weights_only=True)
    threads, channels_last = content.pop("plan")
    content["epoch_seconds"] = tuple(content["epoch_seconds"])
    return Checkpoint(plan=Plan(threads, channels_last), **content)
