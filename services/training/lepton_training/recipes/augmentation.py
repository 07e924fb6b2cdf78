"""Hyperparameters of recipes that classify images: how training images are changed at random."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lepton_training.recipes.fitting import SupervisedHyperparameters


class ImageHyperparameters(SupervisedHyperparameters):
    """What every recipe has that classifies images; of the training split alone."""

    crop: int = Field(
        0,
        ge=0,
        le=64,
        description="Each training image is moved by up to this many pixels in each direction, "
        "each by its own; what comes in is black.",
    )
    flip: Literal["none", "horizontal", "vertical", "both"] = Field(
        "none", description="How half of the training images are turned over."
    )
    rotation: float = Field(
        0.0,
        ge=0,
        le=180,
        description="Degrees by which each training image is turned at most, either way.",
    )
    brightness: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share by which each training image gets brighter or darker at most.",
    )
    contrast: float = Field(
        0.0, ge=0, le=1, description="Share by which the contrast of each is changed at most."
    )
    erase: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of the training images of which a rectangle, a fiftieth to a fifth of "
        "the image, is painted over with one grey.",
    )
    mixup: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Mixes each training image with another, and their classes likewise, by a "
        "share of the beta distribution with this parameter, such as 0.2; 0 mixes none.",
    )
