"""A small residual network for images: a stem, three stages of two blocks, one dense layer.

He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition" (2015), section 4.2,
with their CIFAR layout: 3x3 convolutions with batch normalization, the width doubled and the
side halved from stage to stage, a 1x1 convolution where shapes change, global average pooling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from lepton_training.recipes.augmentation import ImageHyperparameters
from lepton_training.recipes.data import ImageShape
from lepton_training.recipes.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn


class ResnetHyperparameters(ImageHyperparameters):
    learning_rate: float = Field(
        3e-3,
        gt=0,
        le=10,
        description="The optimizer's step size; its peak where a schedule is set.",
    )
    width: int = Field(16, ge=4, le=512, description="Channels of the first stage.")
    blocks: int = Field(2, ge=1, le=50, description="Blocks in each of the three stages.")
    shift: int = Field(
        1,
        ge=0,
        le=8,
        description="Each training batch is moved by up to this many pixels in each direction; "
        "not done on images with a side below 18.",
    )


def build(hyperparameters: ResnetHyperparameters, shape: ImageShape) -> nn.Module:
    """14 layers with weights as it comes: 175,000 parameters for ten classes."""
    from lepton_training.worker.image_front import fronted
    from lepton_training.worker.networks import ResidualStack

    network = ResidualStack(shape, width=hyperparameters.width, blocks=hyperparameters.blocks)
    return fronted(network, shape)


RECIPE = Recipe(
    id="resnet",
    description="Residual network for images (three stages of residual blocks with batch "
    "normalization): cross-entropy, Adam. More accurate than cnn for the same number of weights, "
    "and slower.",
    hyperparameters=ResnetHyperparameters,
    build=build,
    smallest_side=4,
)
