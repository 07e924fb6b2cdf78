"""Small images in the format of MNIST."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from lepton_training.worker.data.idx import FILES


def idx_bytes(values: np.ndarray) -> bytes:
    """``values`` as an uncompressed IDX file of unsigned bytes."""
    header = struct.pack(f">{1 + values.ndim}I", 0x0800 | values.ndim, *values.shape)
    return header + values.astype(np.uint8).tobytes()


def write_dataset(
    directory: Path,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
) -> None:
    """The four files of an IDX dataset."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, values in zip(FILES, (*train, *test), strict=True):
        (directory / name).write_bytes(gzip.compress(idx_bytes(values), 1))


@pytest.fixture
def stripes(tmp_path: Path) -> Path:
    """Two classes of 8x8 images that anything learns: left half bright, or right half."""
    random = np.random.default_rng(0)

    def split(rows: int) -> tuple[np.ndarray, np.ndarray]:
        labels = random.integers(0, 2, rows).astype(np.uint8)
        images = random.integers(0, 60, (rows, 8, 8)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:, 4 * label : 4 * label + 4] += 180
        return images, labels

    write_dataset(tmp_path / "stripes", split(256), split(64))
    return tmp_path / "stripes"
