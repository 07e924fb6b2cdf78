"""The recipes that a job's spec may name.

A new recipe is one module that declares ``RECIPE``, and its name here. The
service reads these declarations too, so a recipe imports PyTorch only in
``build``, which runs in the job's process.
"""

from collections.abc import Mapping

from lepton_training.recipes import cnn, mlp, resnet, tabular
from lepton_training.recipes.data import ImageShape
from lepton_training.recipes.recipe import Recipe

RECIPES: Mapping[str, Recipe] = {
    recipe.id: recipe for recipe in (cnn.RECIPE, mlp.RECIPE, resnet.RECIPE, tabular.RECIPE)
}

__all__ = ["RECIPES", "ImageShape", "Recipe"]
