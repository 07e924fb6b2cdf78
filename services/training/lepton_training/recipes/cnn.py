"""A small convolutional network for images: three 3x3 convolutions and two dense layers.

Conv 32 - pool - Conv 64 - pool - Conv 64 - Dense 64 - Dense 10, as in TensorFlow's
introductory CNN: "valid" convolutions, 2x2 max-pooling, ReLU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lepton_training.recipes.augmentation import ImageHyperparameters
from lepton_training.recipes.data import ImageShape
from lepton_training.recipes.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

_VALID_MIN = 18
"""The shortest side that survives three valid convolutions and two poolings."""


class CnnHyperparameters(ImageHyperparameters):
    learning_rate: float = Field(
        2e-3,
        gt=0,
        le=10,
        description="The optimizer's step size; its peak where a schedule is set.",
    )
    shift: int = Field(
        1,
        ge=0,
        le=8,
        description="Each training batch is moved by up to this many pixels in each direction; "
        "not done on images with a side below 18.",
    )


def build(hyperparameters: CnnHyperparameters, shape: ImageShape) -> nn.Module:
    """The network; with a side below 18 its convolutions are "same", or nothing would be left."""
    from lepton_training.worker.image_front import fronted
    from lepton_training.worker.networks import ConvStack

    padding = 0 if min(shape.height, shape.width) >= _VALID_MIN else 1
    return fronted(ConvStack(shape, padding=padding), shape)


RECIPE = Recipe(
    id="cnn",
    description="Convolutional network for images (Conv 32, pool, Conv 64, pool, Conv 64, "
    "Dense 64, Dense 10; 3x3 kernels): cross-entropy, Adam. About 0.99 on MNIST in 5 epochs.",
    hyperparameters=CnnHyperparameters,
    build=build,
    smallest_side=4,
)
