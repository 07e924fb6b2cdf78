"""A recurrent network for texts: embeddings, LSTM or GRU, mean and maximum over the text.

Hochreiter and Schmidhuber, "Long Short-Term Memory" (1997); Cho et al., "Learning Phrase
Representations using RNN Encoder-Decoder" (2014).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lepton_training.recipes.data import TEXT, TextShape
from lepton_training.recipes.fitting import SupervisedHyperparameters
from lepton_training.recipes.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn


class TextRnnHyperparameters(SupervisedHyperparameters):
    epochs: int = Field(6, ge=1, le=10_000, description="Passes over the training split.")
    learning_rate: float = Field(
        3e-3, gt=0, le=10, description="The optimizer's step size; the peak of a schedule."
    )
    gradient_clip: float = Field(
        1.0, ge=0, description="Largest norm of all gradients together; 0 does not clip."
    )
    cell: Literal["lstm", "gru"] = Field("gru", description="LSTM, or the lighter GRU.")
    dimensions: int = Field(64, ge=1, le=4096, description="Numbers that stand for a token.")
    hidden: int = Field(64, ge=1, le=4096, description="Units of each layer and direction.")
    layers: int = Field(1, ge=1, le=8, description="Layers on top of each other.")
    bidirectional: bool = Field(True, description="Whether texts are also read backwards.")
    dropout: float = Field(
        0.5, ge=0, lt=1, description="Share of the numbers left out in training."
    )


def build(hyperparameters: TextRnnHyperparameters, shape: TextShape) -> nn.Module:
    from lepton_training.worker.networks_of_texts import RecurrentNetwork

    return RecurrentNetwork(
        shape,
        cell=hyperparameters.cell,
        dimensions=hyperparameters.dimensions,
        hidden=hyperparameters.hidden,
        layers=hyperparameters.layers,
        both=hyperparameters.bidirectional,
        dropout=hyperparameters.dropout,
    )


RECIPE = Recipe(
    id="text_rnn",
    description="Recurrent network for texts (LSTM or GRU, in both directions). Set "
    "data.max_length: steps are taken one after the other.",
    hyperparameters=TextRnnHyperparameters,
    build=build,
    data=TEXT,
)
