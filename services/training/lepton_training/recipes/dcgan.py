"""A generative adversarial network for grey images: a generator against a discriminator.

Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional
Generative Adversarial Networks" (2015), with two halvings of the side in place of four. Both
networks are told the class of each image (Mirza and Osindero 2014).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lepton_training.recipes.data import IMAGE_GENERATION, ImageShape
from lepton_training.recipes.fitting import FitHyperparameters
from lepton_training.recipes.hyperparameters import Fault
from lepton_training.recipes.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn


class DcganHyperparameters(FitHyperparameters):
    epochs: int = Field(10, ge=1, le=10_000, description="Passes over the training split.")
    learning_rate: float = Field(
        2e-4, gt=0, le=10, description="The step size of both optimizers; the peak of a schedule."
    )
    schedule: Literal["constant", "cosine", "step", "one_cycle", "plateau"] = Field(
        "constant", description="How the learning rate goes after warm-up; plateau does not go."
    )
    ema: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="Decay of an exponential moving average of the weights, which is then what is "
        "evaluated and exported; 0 keeps none.",
    )
    beta1: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="How long Adam's mean of the gradients remembers; of adam and adamw only.",
    )
    latent: int = Field(64, ge=1, le=4096, description="Numbers of noise that make an image.")
    width: int = Field(32, ge=4, le=512, description="Channels at half of the side.")
    conditional: bool = Field(
        True,
        description="Whether both networks are told the labels; the served one takes noise alone: "
        "the greatest of its first numbers, as many as there are labels, says which.",
    )
    judge_epochs: int = Field(
        1,
        ge=0,
        le=100,
        description="Epochs for which a cnn is trained on the labels, to say how many of 1,000 "
        "samples it knows with a confidence above 0.9, and of how many classes; 0 asks none.",
    )

    def conflicts(self) -> Iterator[Fault]:
        yield from super().conflicts()
        for name in ("validation", "early_stopping"):
            if getattr(self, name):
                yield Fault(
                    name, "has no meaning here: the loss does not tell how good samples are"
                )
        if self.schedule == "plateau":
            yield Fault("schedule", "plateau has no meaning here: the loss does not fall")
        if self.beta1 != type(self).model_fields["beta1"].default and not self.optimizer.startswith(
            "adam"
        ):
            yield Fault("beta1", f"has no effect with {self.optimizer}; use adam or adamw")


def build(hyperparameters: DcganHyperparameters, shape: ImageShape) -> nn.Module:
    """Both networks; the generator alone is served."""
    from lepton_training.worker.adversarial_networks import AdversarialPair

    return AdversarialPair(
        shape,
        latent=hyperparameters.latent,
        width=hyperparameters.width,
        conditional=hyperparameters.conditional,
    )


RECIPE = Recipe(
    id="dcgan",
    description="Generates grey images like those of training from noise (DCGAN). Keeps a row of "
    "samples of every epoch, and has a cnn judge them.",
    hyperparameters=DcganHyperparameters,
    build=build,
    data=IMAGE_GENERATION,
    smallest_side=8,
)
