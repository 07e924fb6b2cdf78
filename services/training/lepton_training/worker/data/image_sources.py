"""Images of IDX files or of PNG and JPEG files: both splits, of one size, and what was left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_training.recipes.data import FileSettings, ImageFileSettings
from lepton_training.recipes.hyperparameters import Fault
from lepton_training.spec import JobSpecInvalid
from lepton_training.worker.data import idx
from lepton_training.worker.data.cleaning import LeftOut, settle
from lepton_training.worker.data.idx import DatasetInvalid, ImageData, LabelledImages
from lepton_training.worker.data.image_cleaning import cleaned
from lepton_training.worker.data.problem import PARITY_ROWS

INPUT = "images"
_SIZES_COMPARED = 3

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Reading:
    """How a kind of data reads images, beside what its settings say."""

    color: str = "grey"
    """``auto``, ``grey`` or ``rgb``, as ``data.color`` has them."""
    keep_blank: Collection[str] = ()
    """Splits whose images of one color throughout are kept."""
    open_classes: bool = False
    """Whether the test split may have classes that training lacks, and training a single one."""


@dataclass(frozen=True)
class Source:
    """Images as they were read, and how an endpoint's are brought to the same size."""

    data: ImageData
    resizing: bytes | None = None
    """ONNX from raw images to UINT8 of the network's size."""
    raw: Sequence[Bytes] = ()
    """Test images of the sizes that they had before."""
    report: Mapping[str, Any] = field(default_factory=dict)


def read(directory: Path, settings: ImageFileSettings, seed: int, reading: Reading) -> Source:
    """The images in ``directory``.

    Args:
        seed: Of what is held out.

    Raises:
        DatasetInvalid: The files are damaged, or do not go with the settings.
        TooManyInvalid: More images cannot be used than the settings allow.
        JobSpecInvalid: Settings have no effect on the files that there are.
    """
    if any((directory / name).exists() for name in idx.FILES):
        return _of_idx(directory, settings, reading)
    return _of_files(directory, settings, seed, reading)


def raw_rows(source: Source) -> dict[str, Any]:
    """Test images by which the exported model is compared: of the network's size, and of others.

    Where an endpoint takes any size and all files have that of the network, parts of them are
    another.
    """
    images = source.data.test.images
    # From all over the split: it may be in order of the classes.
    rows = {INPUT: images[:: max(1, len(images) // PARITY_ROWS)][:PARITY_ROWS]}
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


def labels_of(data: ImageData, names: Sequence[str], path: str) -> list[int]:
    """The labels of the classes that a spec names.

    Args:
        path: Of the names in the spec, for messages.

    Raises:
        DatasetInvalid: Files have no such class. Of IDX files, whose labels are numbers, one that
            no image has does no harm.
    """
    if not data.names:
        return [int(name) for name in names if name.isdecimal()]
    unknown = [name for name in names if name not in data.names]
    if unknown:
        raise DatasetInvalid(
            f"{path} has '{unknown[0]}', which no image is of; there are {', '.join(data.names)}"
        )
    return [data.names.index(name) for name in names]


def _of_idx(directory: Path, settings: ImageFileSettings, reading: Reading) -> Source:
    """Grey images of the four files; they say the splits themselves."""
    names = {*FileSettings.model_fields, "path", "target"} - {"max_invalid_fraction"}
    faults = [
        Fault(f"spec.data.{name}", "has no effect on IDX files; leave it out")
        for name in sorted(names)
        if getattr(settings, name) != ImageFileSettings.model_fields[name].get_default()
    ]
    if reading.color == "rgb":
        faults.append(Fault("spec.data.color", "IDX files are grey; leave it out"))
    if faults:
        raise JobSpecInvalid(faults)
    data = idx.load(directory)
    left_out = {"train": LeftOut(), "test": LeftOut()}
    known = None if reading.open_classes else np.unique(data.train.labels)
    train, test = (
        cleaned(
            split,
            file,
            left_out[name],
            keep_blank=name in reading.keep_blank,
            known=None if name == "train" else known,
        )
        for name, file, split in (("train", "train", data.train), ("test", "t10k", data.test))
    )
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
        raw=list(test.images[:PARITY_ROWS]),
        report=report,
    )


def _of_files(directory: Path, settings: ImageFileSettings, seed: int, reading: Reading) -> Source:
    from lepton_training.worker.data import image_files  # noqa: PLC0415 - loads ONNX and Pillow

    resizers = image_files.Resizers(INPUT, settings)
    found = image_files.load(directory, settings, resizers, seed, reading)
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
