"""What a recipe is: hyperparameters, a kind of data, and a network built from both."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_training.recipes.data import IMAGES, DataKind
from lepton_training.recipes.hyperparameters import Fault, Hyperparameters

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Recipe:
    """One way to train a model; a module of this package declares one as ``RECIPE``."""

    id: str
    description: str
    hyperparameters: type[Hyperparameters]
    build: Callable[[Any, Any], nn.Module]
    """``build(hyperparameters, shape)``: a network over the tensors that the kind of data gives,
    with the outputs that its shape asks for. Called in the job's process only: it imports
    PyTorch."""
    data: DataKind = IMAGES
    smallest_side: int = 1
    """Images with a shorter side cannot be used."""
    conflicts: Callable[[Any, Any], Iterable[Fault]] = lambda _hyperparameters, _data: ()
    """``conflicts(hyperparameters, data)``: what is wrong with both together; whole paths."""
