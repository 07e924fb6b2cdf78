"""Images with a class each, of IDX files or of PNG and JPEG files, for recipes that classify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lepton_training.recipes import ImageShape
from lepton_training.recipes.data import FileSettings, ImageSettings
from lepton_training.recipes.hyperparameters import Fault
from lepton_training.spec import JobSpec, JobSpecInvalid
from lepton_training.worker.augmentation import Augmentation
from lepton_training.worker.data import idx
from lepton_training.worker.data.cleaning import LeftOut, settle
from lepton_training.worker.data.examples import held_out
from lepton_training.worker.data.fitted import Fitted
from lepton_training.worker.data.identity import digest_of_arrays
from lepton_training.worker.data.idx import DatasetInvalid, ImageData, LabelledImages
from lepton_training.worker.data.image_cleaning import cleaned
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.networks import scale
from lepton_training.worker.objectives import Classification, class_weights
from lepton_training.worker.platform import TensorSpec

INPUT, OUTPUT = "images", "probabilities"
_SHIFT_MIN_SIDE = 18
"""Moving a smaller image would push its content out."""
_PARITY_ROWS = 256
_SIZES_COMPARED = 3
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


@dataclass(frozen=True)
class Source:
    """Images as they were read, and how an endpoint's are brought to the same size."""

    data: ImageData
    resizing: bytes | None = None
    """ONNX from raw images to UINT8 of the network's size."""
    raw: Sequence[Bytes] = ()
    """Test images of the sizes that they had before."""
    report: Mapping[str, Any] = field(default_factory=dict)


def load(directory: Path, spec: JobSpec, fitted: Fitted | None = None) -> Problem:
    """The images in ``directory``, to be classified.

    Raises:
        DatasetInvalid: The files are damaged, or do not go with the recipe or the spec.
        TooManyInvalid: More images cannot be used than the spec allows.
        WarmStartMismatch: There are classes that ``fitted`` does not know.
    """
    settings = cast(ImageSettings, spec.data)
    if any((directory / name).exists() for name in idx.FILES):
        source = _of_idx(directory, settings)
    else:
        source = _of_files(directory, settings, spec.seed)
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
    names = data.names or tuple(str(label) for label in range(data.classes))
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
    names = data.names or tuple(str(label) for label in range(data.classes))
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
        **_raw_rows(source),
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


def _of_idx(directory: Path, settings: ImageSettings) -> Source:
    """Grey images of the four files; they say the splits themselves."""
    names = {*FileSettings.model_fields, "path", "target"} - {"max_invalid_fraction"}
    faults = [
        Fault(f"spec.data.{name}", "has no effect on IDX files; leave it out")
        for name in sorted(names)
        if getattr(settings, name) != ImageSettings.model_fields[name].get_default()
    ]
    if settings.color == "rgb":
        faults.append(Fault("spec.data.color", "IDX files are grey; leave it out"))
    if faults:
        raise JobSpecInvalid(faults)
    data = idx.load(directory)
    left_out = {"train": LeftOut(), "test": LeftOut()}
    known = np.unique(data.train.labels)
    keep_blank = settings.blank == "keep"
    train = cleaned(data.train, "train", left_out["train"], keep_blank=keep_blank)
    test = cleaned(data.test, "t10k", left_out["test"], keep_blank=keep_blank, known=known)
    cleaning = settle(
        {
            "train": (len(train.labels), left_out["train"]),
            "test": (len(test.labels), left_out["test"]),
        },
        max_invalid_fraction=settings.max_invalid_fraction,
    )
    if not len(test.labels) or not len(train.labels):
        raise DatasetInvalid("no image of a split can be used; the job's log says why")
    report = {"cleaning": cleaning, "format": "idx"}
    if not settings.height:
        return Source(ImageData(train, test, data.classes), report=report)
    from lepton_training.worker.data.image_resizing import Resizer  # noqa: PLC0415 - loads ONNX

    resizer = Resizer(INPUT, settings.height, settings.width, how=settings.resize, rgb=False)

    def brought(split: LabelledImages) -> LabelledImages:
        return LabelledImages(resizer(split.images), split.labels)

    return Source(
        ImageData(brought(train), brought(test), data.classes),
        resizing=resizer.graph,
        raw=list(test.images[:_PARITY_ROWS]),
        report=report,
    )


def _of_files(directory: Path, settings: ImageSettings, seed: int) -> Source:
    from lepton_training.worker.data import image_files  # noqa: PLC0415 - loads ONNX and Pillow

    resizers = image_files.Resizers(INPUT, settings)
    found = image_files.load(directory, settings, resizers, seed)
    data = found.data
    cleaning = settle(
        {
            name: (len(split.labels), found.left_out[name])
            for name, split in (("train", data.train), ("test", data.test))
        },
        max_invalid_fraction=settings.max_invalid_fraction,
    )
    resizer = resizers.of(found.rgb)
    return Source(
        data,
        resizing=None if resizer is None else resizer.graph,
        raw=found.raw,
        report={"cleaning": cleaning, "format": "files"},
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


def _raw_rows(source: Source) -> dict[str, Any]:
    """Test images by which the exported model is compared: of the network's size, and of others.

    Where an endpoint takes any size and all files have that of the network, parts of them are
    another.
    """
    images = source.data.test.images
    # From all over the split: it may be in order of the classes.
    rows = {INPUT: images[:: max(1, len(images) // _PARITY_ROWS)][:_PARITY_ROWS]}
    if source.resizing is None:
        return {"raw_rows": rows}
    height, width = images.shape[1:3]
    by_size: dict[tuple[int, int], list[Bytes]] = {}
    for image in source.raw:
        by_size.setdefault((image.shape[0], image.shape[1]), []).append(image)
    by_size.pop((height, width), None)
    groups = sorted(by_size.values(), key=len, reverse=True)[:_SIZES_COMPARED]
    others = [np.stack(group) for group in groups]
    if not others:
        others = [rows[INPUT][:, : max(1, height * 3 // 4), : max(1, width * 2 // 3)]]
    return {"raw_rows": rows, "more_rows": tuple({INPUT: one} for one in others)}
