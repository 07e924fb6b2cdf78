"""A bag of embeddings for texts: distinct words and word pairs, and one dense layer.

The embeddings are added up and divided by the root of their number.

Joulin, Grave, Bojanowski and Mikolov, "Bag of Tricks for Efficient Text Classification"
(2016). Fast, and on small collections of long texts more accurate than networks that read
in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from lepton_training.recipes.data import TEXT, TextShape
from lepton_training.recipes.fitting import SupervisedHyperparameters
from lepton_training.recipes.hyperparameters import Fault
from lepton_training.recipes.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn


class TextBagHyperparameters(SupervisedHyperparameters):
    epochs: int = Field(16, ge=1, le=10_000, description="Passes over the training split.")
    learning_rate: float = Field(
        5e-3, gt=0, le=10, description="The optimizer's step size; the peak of a schedule."
    )
    dimensions: int = Field(8, ge=1, le=4096, description="Numbers that stand for a token.")
    ngrams: int = Field(2, ge=1, le=5, description="Tokens in a row that are looked at together.")
    buckets: int = Field(
        100_000,
        ge=1,
        le=100_000_000,
        description="Embeddings that n-grams of two tokens and more share.",
    )
    dropout: float = Field(
        0.2, ge=0, lt=1, description="Share of a text's n-grams left out in training."
    )

    def conflicts(self) -> Iterator[Fault]:
        yield from super().conflicts()
        if self.ngrams == 1 and self.buckets != type(self).model_fields["buckets"].default:
            yield Fault("buckets", "has no effect with ngrams 1")


def build(hyperparameters: TextBagHyperparameters, shape: TextShape) -> nn.Module:
    from lepton_training.worker.networks_of_texts import BagNetwork

    return BagNetwork(
        shape,
        dimensions=hyperparameters.dimensions,
        ngrams=hyperparameters.ngrams,
        buckets=hyperparameters.buckets,
        dropout=hyperparameters.dropout,
    )


RECIPE = Recipe(
    id="text_bag",
    description="Bag of embeddings for texts: distinct words and word pairs, one dense layer. The "
    "fastest for texts.",
    hyperparameters=TextBagHyperparameters,
    build=build,
    data=TEXT,
)
