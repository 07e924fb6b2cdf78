"""A recurrent network for series: LSTM or GRU over a window, one dense layer.

It forecasts the change from the last step, so that it begins as the persistence forecast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lepton_training.recipes.data import SERIES, SeriesShape
from lepton_training.recipes.fitting import RegressionHyperparameters
from lepton_training.recipes.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn


class SeriesRnnHyperparameters(RegressionHyperparameters):
    epochs: int = Field(12, ge=1, le=10_000, description="Passes over the training split.")
    learning_rate: float = Field(
        3e-3, gt=0, le=10, description="The optimizer's step size; the peak of a schedule."
    )
    gradient_clip: float = Field(
        1.0, ge=0, description="Largest norm of all gradients together; 0 does not clip."
    )
    cell: Literal["lstm", "gru"] = Field("gru", description="LSTM, or the lighter GRU.")
    hidden: int = Field(32, ge=1, le=4096, description="Units of each layer.")
    layers: int = Field(1, ge=1, le=8, description="Layers on top of each other.")
    dropout: float = Field(
        0.1, ge=0, lt=1, description="Share of the numbers left out in training."
    )


def build(hyperparameters: SeriesRnnHyperparameters, shape: SeriesShape) -> nn.Module:
    """The network; it is built with its last layer at zero."""
    from lepton_training.worker.networks_of_series import SeriesNetwork

    return SeriesNetwork(
        shape,
        cell=hyperparameters.cell,
        hidden=hyperparameters.hidden,
        layers=hyperparameters.layers,
        dropout=hyperparameters.dropout,
    )


RECIPE = Recipe(
    id="series_rnn",
    description="Recurrent network for series (LSTM or GRU): forecasts the next steps of a column "
    "from a window of the last ones; compared with persistence and the seasonal average.",
    hyperparameters=SeriesRnnHyperparameters,
    build=build,
    data=SERIES,
)
