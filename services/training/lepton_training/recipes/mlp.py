"""A multi-layer perceptron on flattened pixels: two hidden layers of 128.

It knows nothing of what lies beside what, and is the fastest to train and to serve.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lepton_training.recipes.augmentation import ImageHyperparameters
from lepton_training.recipes.data import ImageShape
from lepton_training.recipes.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn


class MlpHyperparameters(ImageHyperparameters):
    epochs: int = Field(10, ge=1, le=10_000, description="Passes over the training split.")
    hidden: int = Field(128, ge=1, le=16_384, description="Units in each of the two hidden layers.")


def build(hyperparameters: MlpHyperparameters, shape: ImageShape) -> nn.Module:
    """784-128-128-10 for MNIST."""
    from torch import nn

    from lepton_training.worker.image_front import fronted

    network = nn.Sequential(
        nn.Flatten(),
        nn.Linear(shape.inputs * shape.height * shape.width, hyperparameters.hidden),
        nn.ReLU(),
        nn.Linear(hyperparameters.hidden, hyperparameters.hidden),
        nn.ReLU(),
        nn.Linear(hyperparameters.hidden, shape.classes),
    )
    return fronted(network, shape)


RECIPE = Recipe(
    id="mlp",
    description="Multi-layer perceptron on flattened pixels (784-128-128-10 on MNIST): "
    "cross-entropy, Adam. The fastest to train and to serve.",
    hyperparameters=MlpHyperparameters,
    build=build,
)
