"""A Transformer encoder for texts: embeddings, self-attention, one dense layer.

Vaswani et al., "Attention Is All You Need" (2017). Trained from nothing it wants more texts
than the other recipes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lepton_training.recipes.data import TEXT, TextShape
from lepton_training.recipes.fitting import SupervisedHyperparameters
from lepton_training.recipes.hyperparameters import Fault
from lepton_training.recipes.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn


class TextTransformerHyperparameters(SupervisedHyperparameters):
    epochs: int = Field(10, ge=1, le=10_000, description="Passes over the training split.")
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop", "adagrad"] = Field(
        "adamw", description="Adam, AdamW (decoupled weight decay), SGD, RMSprop or Adagrad."
    )
    weight_decay: float = Field(
        0.01,
        ge=0,
        le=1,
        description="L2 penalty in the gradient; with adamw, decay of the weights.",
    )
    warmup: float = Field(
        0.1, ge=0, lt=1, description="Share of all steps over which the rate rises from zero."
    )
    gradient_clip: float = Field(
        1.0, ge=0, description="Largest norm of all gradients together; 0 does not clip."
    )
    dimensions: int = Field(
        64,
        ge=2,
        le=4096,
        description="Numbers that stand for a token; even, and a multiple of heads.",
    )
    heads: int = Field(4, ge=1, le=64, description="Attentions beside each other.")
    layers: int = Field(2, ge=1, le=24, description="Blocks on top of each other.")
    dropout: float = Field(
        0.2, ge=0, lt=1, description="Share of the numbers left out in training."
    )

    def conflicts(self) -> Iterator[Fault]:
        yield from super().conflicts()
        if self.dimensions % 2 or self.dimensions % self.heads:
            yield Fault("dimensions", f"must be even and a multiple of heads ({self.heads})")


def build(hyperparameters: TextTransformerHyperparameters, shape: TextShape) -> nn.Module:
    from lepton_training.worker.networks_of_texts import EncoderNetwork

    return EncoderNetwork(
        shape,
        dimensions=hyperparameters.dimensions,
        heads=hyperparameters.heads,
        layers=hyperparameters.layers,
        dropout=hyperparameters.dropout,
    )


RECIPE = Recipe(
    id="text_transformer",
    description="Transformer encoder for texts, trained from nothing. Set data.max_length: work "
    "grows with the square of the length.",
    hyperparameters=TextTransformerHyperparameters,
    build=build,
    data=TEXT,
)
