"""The kinds of data that recipes train on: how files are read, and what a network is told of them.

A kind is its settings (``spec.data``, checked before a job runs) and the shape that
networks are built from; the reading itself is in ``lepton_training.worker.data``.
"""

from __future__ import annotations

from dataclasses import dataclass

from lepton_training.recipes.hyperparameters import DataSettings


@dataclass(frozen=True, slots=True)
class ImageShape:
    """Grey images, FP32 ``[N, 1, height, width]`` in [0, 1], and the number of their classes."""

    height: int
    width: int
    classes: int


@dataclass(frozen=True)
class DataKind:
    """One kind of data."""

    id: str
    settings: type[DataSettings]
    formats: tuple[str, ...]
    """Formats of dataset versions that it can be read from, as storage names them."""
    shape: type


class ImageSettings(DataSettings):
    """Nothing to set: the four files say it all."""


IMAGES = DataKind("images", ImageSettings, ("DATASET_FORMAT_IDX",), ImageShape)
