"""Images with a class each, of IDX files or of PNG and JPEG files, for recipes that classify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lepton_training.recipes import ImageShape
from lepton_training.recipes.data import ImageSettings
from lepton_training.spec import JobSpec
from lepton_training.worker.augmentation import Augmentation
from lepton_training.worker.data.examples import held_out
from lepton_training.worker.data.fitted import Fitted
from lepton_training.worker.data.identity import digest_of_arrays
from lepton_training.worker.data.idx import DatasetInvalid, ImageData, LabelledImages
from lepton_training.worker.data.image_sources import INPUT, Reading, Source, raw_rows, read
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.networks import scale
from lepton_training.worker.objectives import Classification, class_weights
from lepton_training.worker.platform import TensorSpec

OUTPUT = "probabilities"
_SHIFT_MIN_SIDE = 18
"""Moving a smaller image would push its content out."""
_IMAGES_AT_ONCE = 1024
_SEEDS = 1 << 62

Bytes = npt.NDArray[np.uint8]


class ImageExamples:
    """``Examples`` of UINT8 images; batches are FP32 ``[N, C, H, W]`` in [0, 1]."""

    def __init__(
        self,
        split: LabelledImages,
        *,
        classes: int = 0,
        shift: int = 0,
        augmentation: Augmentation | None = None,
    ) -> None:
        """An augmented batch moves by up to ``shift`` pixels as a whole, unless images are small;
        then ``augmentation`` changes each image, and may mix two of ``classes``."""
        height, width = split.images.shape[1:3]
        self._size = (height, width)
        self._shift = shift if min(height, width) >= _SHIFT_MIN_SIDE else 0
        beside = (self._shift, self._shift)
        margin = ((0, 0), beside, beside, *[(0, 0)] * (split.images.ndim - 3))
        self._images = torch.from_numpy(np.pad(split.images, margin))
        self._classes = classes
        self._augmentation = augmentation
        self.targets = torch.from_numpy(split.labels.astype(np.int64))

    def __len__(self) -> int:
        return len(self._images)

    def inputs(self, rows: Tensor | slice) -> tuple[Tensor, ...]:
        return (self._moved(rows, self._shift, self._shift),)

    def augmentations(self, steps: int, generator: torch.Generator) -> Sequence[Any]:
        moves = torch.randint(0, 2 * self._shift + 1, (steps, 2), generator=generator)
        seeds = torch.randint(_SEEDS, (steps, 1), generator=generator)
        return torch.cat([moves, seeds], dim=1).tolist()

    def augmented(self, rows: Tensor, augmentation: Any) -> tuple[Tensor, ...]:
        down, right, seed = augmentation
        images = self._moved(rows, down, right)
        return (self._augmentation(images, seed) if self._augmentation else images,)

    def augmented_targets(self, rows: Tensor, augmentation: Any) -> Tensor:
        targets = self.targets[rows]
        if not self._augmentation:
            return targets
        return self._augmentation.targets(targets, self._classes, augmentation[2])

    def _moved(self, rows: Tensor | slice, down: int, right: int) -> Tensor:
        height, width = self._size
        return scale(self._images[rows][:, down : down + height, right : right + width])


def load(directory: Path, spec: JobSpec, fitted: Fitted | None = None) -> Problem:
    """The images in ``directory``, to be classified.

    Raises:
        DatasetInvalid: The files are damaged, or do not go with the recipe or the spec.
        TooManyInvalid: More images cannot be used than the spec allows.
        WarmStartMismatch: There are classes that ``fitted`` does not know.
    """
    settings = cast(ImageSettings, spec.data)
    blank = ("train", "test") if settings.blank == "keep" else ()
    source = read(directory, settings, spec.seed, Reading(settings.color, blank))
    data = source.data if fitted is None else _with_classes(source.data, fitted)
    smallest_side = spec.smallest_side
    height, width = data.train.images.shape[1:3]
    if min(height, width) < smallest_side:
        raise DatasetInvalid(
            f"{spec.dataset} has images of {height}x{width}; {spec.trains} needs "
            f"{smallest_side}x{smallest_side} or more: use 'mlp', or set data.height and data.width"
        )
    return prepare(
        data,
        spec.hyperparameters,
        seed=spec.seed,
        settings=settings,
        source=source,
        fitted=fitted,
    )


def _with_classes(data: ImageData, fitted: Fitted) -> ImageData:
    """``data`` with the classes of ``fitted``, where it has any, and their numbers."""
    if not fitted.class_names:
        return data
    names = data.class_names
    fitted.require_known(names[label] for label in np.unique(data.train.labels))
    # Images of the test split whose label training lacks were left out.
    numbers = np.array(
        [fitted.class_names.index(name) if name in fitted.class_names else 0 for name in names],
        np.int64,
    )
    train, test = (
        LabelledImages(split.images, numbers[split.labels]) for split in (data.train, data.test)
    )
    return replace(
        data,
        train=train,
        test=test,
        classes=len(fitted.class_names),
        names=fitted.class_names,
    )


def prepare(
    data: ImageData,
    hyperparameters: Any,
    *,
    seed: int,
    settings: ImageSettings | None = None,
    source: Source | None = None,
    fitted: Fitted | None = None,
) -> Problem:
    """The images in ``data``, to be classified.

    Args:
        settings: How pixels are scaled, and what the network is shown beside them.
        source: Where ``data`` comes from; without it an endpoint takes images of its size.
        fitted: Of an earlier model, whose scaling is used.

    Raises:
        JobSpecInvalid: There is not a weight for each class, or the settings ask for colors of
            grey images.
    """
    settings = settings or ImageSettings()  # type: ignore[call-arg]  # all its fields have defaults
    source = source or Source(data)
    height, width = data.train.images.shape[1:3]
    rgb = data.train.images.ndim == 4
    train, validation = split_off(data.train, hyperparameters.validation, seed)
    if fitted is None:
        mean, deviation = _scaling(train.images, settings.scaling)
    else:
        mean, deviation = tuple(fitted.shape["mean"]), tuple(fitted.shape["deviation"])
    augmentation = Augmentation.of(hyperparameters)
    names = data.class_names
    kind = "colored" if rgb else "grey"
    shape = (-1, -1, -1) if source.resizing else (-1, height, width)
    return Problem(
        about=f"{len(train.labels)} training"
        + (f", {len(validation.labels)} validation" if validation else "")
        + f" and {len(data.test.labels)} test images of {height}x{width}"
        + (", colored" if rgb else "")
        + f", {data.classes} classes",
        shape=ImageShape(
            height,
            width,
            data.classes,
            channels=3 if rgb else 1,
            mean=mean,
            deviation=deviation,
            features=tuple(settings.features),
        ),
        train=ImageExamples(
            train,
            classes=data.classes,
            shift=getattr(hyperparameters, "shift", 0),
            augmentation=augmentation or None,
        ),
        validation=ImageExamples(validation) if validation else None,
        test=ImageExamples(data.test),
        objective=Classification(
            hyperparameters, class_weights(hyperparameters, train.labels, data.classes)
        ),
        inputs=(
            TensorSpec(
                INPUT,
                "UINT8",
                (*shape, 3) if rgb else shape,
                f"{kind} pixels as stored, 0 to 255"
                + (", of images of any size" if source.resizing else "")
                + ("; red, green, blue" if rgb else ""),
            ),
        ),
        outputs=(TensorSpec(OUTPUT, "FP32", (-1, data.classes), "probability of each class"),),
        class_names=names,
        preprocessing=source.resizing,
        report={**source.report, "mean": list(mean), "deviation": list(deviation)},
        **raw_rows(source),
        test_digest=digest_of_arrays(data.test.images, data.test.labels),
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


def _scaling(images: Bytes, scaling: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation that each channel is scaled by, of pixels in [0, 1]; none for none."""
    channels = 3 if images.ndim == 4 else 1
    if scaling == "minmax":
        return (), ()
    if scaling == "symmetric":
        return (0.5,) * channels, (0.5,) * channels
    # Counting levels is exact, and takes no floating-point copy of the images.
    counts = np.zeros((channels, 256), np.int64)
    for begin in range(0, len(images), _IMAGES_AT_ONCE):
        flat = images[begin : begin + _IMAGES_AT_ONCE].reshape(-1, channels)
        for channel in range(channels):
            counts[channel] += np.bincount(flat[:, channel], minlength=256)
    levels = np.arange(256) / 255
    means = [float(np.average(levels, weights=count)) for count in counts]
    deviations = [
        float(np.sqrt(np.average((levels - mean) ** 2, weights=count))) or 1.0
        for mean, count in zip(means, counts, strict=True)
    ]
    return tuple(means), tuple(deviations)
