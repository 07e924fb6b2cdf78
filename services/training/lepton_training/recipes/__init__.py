"""The recipes that a job's spec may name.

A new recipe is one module that declares ``RECIPE``, and its name here. The
service reads these declarations too, so a recipe imports PyTorch only in
``build``, which runs in the job's process.
"""

import inspect
from collections.abc import Mapping

from lepton_training.recipes import (
    autoencoder,
    cnn,
    dcgan,
    mlp,
    resnet,
    series_rnn,
    tabular,
    text_bag,
    text_rnn,
    text_transformer,
)
from lepton_training.recipes.data import ImageShape
from lepton_training.recipes.recipe import Recipe

_MODULES = (
    autoencoder,
    cnn,
    dcgan,
    mlp,
    resnet,
    series_rnn,
    tabular,
    text_bag,
    text_rnn,
    text_transformer,
)

RECIPES: Mapping[str, Recipe] = {module.RECIPE.id: module.RECIPE for module in _MODULES}
CARDS: Mapping[str, str] = {
    module.RECIPE.id: inspect.cleandoc(module.__doc__ or "") for module in _MODULES
}
"""Each recipe's model card: what its module says of itself."""

__all__ = ["CARDS", "RECIPES", "ImageShape", "Recipe"]
