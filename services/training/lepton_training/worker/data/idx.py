"""Reads the IDX files of MNIST and its kin.

Format: http://yann.lecun.com/exdb/mnist/ - a big-endian magic number (0, 0, type
code, dimensions), one 32-bit size per dimension, then the values. Type 0x08 is
unsigned byte.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_mesh.errors import InvalidArgument
from lepton_mesh.texts import counted

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)

Bytes = npt.NDArray[np.uint8]


class DatasetInvalid(InvalidArgument):
    """A file of the dataset is missing, damaged, or does not go with the others."""

    reason = "TRAINING_DATA_INVALID"


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """One split."""

    images: Bytes
    """``[N, H, W]``, or ``[N, H, W, 3]`` of colors; 0 to 255."""
    labels: npt.NDArray[np.integer[Any]]
    """``[N]``, classes from 0."""


@dataclass(frozen=True, slots=True)
class ImageData:
    """A dataset version in memory."""

    train: LabelledImages
    test: LabelledImages
    classes: int
    """One more than the highest label of the training split."""
    names: tuple[str, ...] = ()
    """Of the classes; empty where they are called by their numbers."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """What the classes are called."""
        return self.names or tuple(str(label) for label in range(self.classes))


def load(directory: Path) -> ImageData:
    """Both splits in ``directory``.

    Raises:
        DatasetInvalid: Names the file, what is wrong with it and what to do.
    """
    train = _split(directory, "train")
    test = _split(directory, "t10k")
    if train.images.shape[1:] != test.images.shape[1:]:
        raise DatasetInvalid(
            f"{FILES[0]} has images of {_size(train.images)} and {FILES[2]} of "
            f"{_size(test.images)}; push splits that come from one source"
        )
    classes = int(train.labels.max()) + 1
    if classes < 2:
        raise DatasetInvalid(f"{FILES[1]} has a single class; training needs two or more")
    return ImageData(train, test, classes)


def read_idx(path: Path, dimensions: int) -> Bytes:
    """The values of one gzipped IDX file of unsigned bytes.

    Raises:
        DatasetInvalid: Missing, not gzip, damaged, another type or rank, or the wrong length.
    """
    name = path.name
    try:
        raw = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise DatasetInvalid(
            f"{name} is missing; an IDX dataset has {', '.join(FILES)}", file=name
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DatasetInvalid(
            f"{name} is not an intact gzip file ({error}); push the original file again", file=name
        ) from None
    header = 4 + 4 * dimensions
    if len(raw) < header:
        raise DatasetInvalid(f"{name} ends inside its header; push it again", file=name)
    magic = 0x0800 | dimensions
    (found, *shape) = struct.unpack(f">{1 + dimensions}I", raw[:header])
    if found != magic:
        raise DatasetInvalid(
            f"{name} begins with magic number {found:#010x}, expected {magic:#010x} "
            f"(unsigned bytes in {dimensions} dimension{'s' * (dimensions > 1)})",
            file=name,
        )
    expected = int(np.prod(shape, dtype=object))
    if len(raw) - header != expected:
        raise DatasetInvalid(
            f"{name} announces {'x'.join(map(str, shape))} = {expected} bytes and has "
            f"{len(raw) - header}; push the original file again",
            file=name,
        )
    if expected == 0:
        raise DatasetInvalid(f"{name} is empty; push a split with examples", file=name)
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape)


def _split(directory: Path, prefix: str) -> LabelledImages:
    images_file, labels_file = f"{prefix}-images-idx3-ubyte.gz", f"{prefix}-labels-idx1-ubyte.gz"
    images = read_idx(directory / images_file, 3)
    labels = read_idx(directory / labels_file, 1)
    if len(images) != len(labels):
        raise DatasetInvalid(
            f"{images_file} has {counted(len(images), 'image')} and {labels_file} has "
            f"{counted(len(labels), 'label')}; they must be as many",
            file=labels_file,
        )
    return LabelledImages(images, labels)


def _size(images: Bytes) -> str:
    return f"{images.shape[1]}x{images.shape[2]}"
