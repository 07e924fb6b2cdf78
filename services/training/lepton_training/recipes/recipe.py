"""What a recipe is: hyperparameters, and a network built from them and from the data's shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_training.recipes.hyperparameters import Hyperparameters

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class ImageShape:
    """Grey images and how many classes they fall into."""

    height: int
    width: int
    classes: int


@dataclass(frozen=True)
class Recipe:
    """One way to train a model; a module of this package declares one as ``RECIPE``."""

    id: str
    description: str
    hyperparameters: type[Hyperparameters]
    build: Callable[[Any, ImageShape], nn.Module]
    """``build(hyperparameters, shape)``: a network from FP32 ``[N, 1, H, W]`` in [0, 1] to FP32
    logits ``[N, classes]``. Called in the job's process only: it imports PyTorch."""
    smallest_side: int = 1
    """Images with a shorter side cannot be used."""
