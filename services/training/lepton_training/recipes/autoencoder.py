"""An autoencoder that finds anomalies in grey images: what it cannot rebuild is strange.

Hinton and Salakhutdinov, "Reducing the Dimensionality of Data with Neural Networks" (2006).
It is trained on the images of the normal labels alone; an image's score is the mean squared
difference from what comes out of a narrow layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from lepton_training.recipes.data import IMAGE_ANOMALIES, ImageShape
from lepton_training.recipes.fitting import FitHyperparameters
from lepton_training.recipes.hyperparameters import Fault
from lepton_training.recipes.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn


class AutoencoderHyperparameters(FitHyperparameters):
    epochs: int = Field(10, ge=1, le=10_000, description="Passes over the training split.")
    hidden: list[int] = Field(
        [256, 64],
        max_length=20,
        description="Units of each layer before the code; the same follow it in reverse.",
    )
    code: int = Field(16, ge=1, le=4096, description="Numbers that an image has to pass through.")

    def conflicts(self) -> Iterator[Fault]:
        yield from super().conflicts()
        if not all(0 < units <= 16_384 for units in self.hidden):
            yield Fault("hidden", "has layers that are not of 1 to 16384 units")


def build(hyperparameters: AutoencoderHyperparameters, shape: ImageShape) -> nn.Module:
    """784-256-64-16-64-256-784 for MNIST, and the score."""
    from lepton_training.worker.networks import Autoencoder

    return Autoencoder(shape, hidden=hyperparameters.hidden, code=hyperparameters.code)


RECIPE = Recipe(
    id="autoencoder",
    description="Anomaly detection in grey images: an autoencoder trained on the normal labels, "
    "whose error is the score; ROC-AUC on the labels left out.",
    hyperparameters=AutoencoderHyperparameters,
    build=build,
    data=IMAGE_ANOMALIES,
)
