"""Grey images of IDX files, for recipes that classify them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lepton_training.recipes import RECIPES, ImageShape
from lepton_training.spec import JobSpec
from lepton_training.worker.data import idx
from lepton_training.worker.data.examples import held_out
from lepton_training.worker.data.idx import DatasetInvalid, ImageData, LabelledImages
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.networks import scale
from lepton_training.worker.objectives import Classification, class_weights
from lepton_training.worker.platform import TensorSpec

INPUT, OUTPUT = "images", "probabilities"
_SHIFT_MIN_SIDE = 18
"""Moving a smaller image would push its content out."""
_PARITY_ROWS = 256


class ImageExamples:
    """``Examples`` of UINT8 images; batches are FP32 ``[N, 1, H, W]`` in [0, 1]."""

    def __init__(self, split: LabelledImages, *, shift: int = 0) -> None:
        """``shift``: how many pixels an augmented batch moves at most; 0 on small images."""
        height, width = split.images.shape[1:]
        self._size = (height, width)
        self._shift = shift if min(height, width) >= _SHIFT_MIN_SIDE else 0
        margin = ((0, 0), (self._shift, self._shift), (self._shift, self._shift))
        self._images = torch.from_numpy(np.pad(split.images, margin))
        self.targets = torch.from_numpy(split.labels.astype(np.int64))

    def __len__(self) -> int:
        return len(self._images)

    def inputs(self, rows: Tensor | slice) -> tuple[Tensor, ...]:
        return (self._moved(rows, self._shift, self._shift),)

    def augmentations(self, steps: int, generator: torch.Generator) -> Sequence[Any]:
        moves = torch.randint(0, 2 * self._shift + 1, (steps, 2), generator=generator)
        return moves.tolist()

    def augmented(self, rows: Tensor, augmentation: Any) -> tuple[Tensor, ...]:
        down, right = augmentation
        return (self._moved(rows, down, right),)

    def _moved(self, rows: Tensor | slice, down: int, right: int) -> Tensor:
        height, width = self._size
        return scale(self._images[rows][:, down : down + height, right : right + width])


def load(directory: Path, spec: JobSpec) -> Problem:
    """The images in ``directory``, to be classified.

    Raises:
        DatasetInvalid: The files are damaged, or do not go with the recipe or the spec.
    """
    data = idx.load(directory)
    smallest_side = RECIPES[spec.recipe].smallest_side
    height, width = data.train.images.shape[1:]
    if min(height, width) < smallest_side:
        raise DatasetInvalid(
            f"{spec.dataset} has images of {height}x{width}; recipe '{spec.recipe}' needs "
            f"{smallest_side}x{smallest_side} or more: use 'mlp'"
        )
    return prepare(data, spec.hyperparameters, seed=spec.seed)


def prepare(data: ImageData, hyperparameters: Any, *, seed: int) -> Problem:
    """The images in ``data``, to be classified.

    Raises:
        JobSpecInvalid: There is not a weight for each class.
    """
    height, width = data.train.images.shape[1:]
    train, validation = split_off(data.train, hyperparameters.validation, seed)
    return Problem(
        about=f"{len(train.labels)} training"
        + (f", {len(validation.labels)} validation" if validation else "")
        + f" and {len(data.test.labels)} test images of {height}x{width}, {data.classes} classes",
        shape=ImageShape(height, width, data.classes),
        train=ImageExamples(train, shift=getattr(hyperparameters, "shift", 0)),
        validation=ImageExamples(validation) if validation else None,
        test=ImageExamples(data.test),
        objective=Classification(
            hyperparameters, class_weights(hyperparameters, train.labels, data.classes)
        ),
        inputs=(
            TensorSpec(INPUT, "UINT8", (-1, height, width), "grey pixels as stored, 0 to 255"),
        ),
        outputs=(TensorSpec(OUTPUT, "FP32", (-1, data.classes), "probability of each class"),),
        class_names=tuple(str(label) for label in range(data.classes)),
        raw_rows={INPUT: data.test.images[:_PARITY_ROWS]},
    )


def split_off(
    split: LabelledImages, share: float, seed: int
) -> tuple[LabelledImages, LabelledImages | None]:
    """What is left to train on, and the validation split."""
    if not share:
        return split, None
    kept, out = (rows.numpy() for rows in held_out(len(split.labels), share, seed))
    return (
        LabelledImages(split.images[kept], split.labels[kept]),
        LabelledImages(split.images[out], split.labels[out]),
    )
