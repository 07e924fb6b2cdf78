"""Raw IDX files: what is wrong with one is said in words."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lepton_training.worker.data.idx import FILES, DatasetInvalid, load

IMAGES, LABELS, TEST_IMAGES, TEST_LABELS = FILES


def repack(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


def test_reads_both_splits(stripes: Path) -> None:
    """Images, labels and the number of classes."""
    data = load(stripes)
    assert data.train.images.shape == (256, 8, 8)
    assert data.test.labels.shape == (64,)
    assert data.classes == 2


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda d: (d / LABELS).unlink(), f"{LABELS} is missing"),
    "not gzip": (lambda d: (d / IMAGES).write_bytes(b"hello"), "not an intact gzip"),
    "cut off": (
        lambda d: (d / IMAGES).write_bytes((d / IMAGES).read_bytes()[:-100]),
        "not an intact gzip",
    ),
    "labels for images": (
        lambda d: (d / IMAGES).write_bytes((d / LABELS).read_bytes()),
        "magic number 0x00000801, expected 0x00000803",
    ),
    "ends in header": (lambda d: repack(d / IMAGES, lambda raw: raw[:7]), "inside its header"),
    "too few bytes": (lambda d: repack(d / IMAGES, lambda raw: raw[:-1]), "announces 256x8x8"),
    "labels do not match": (
        lambda d: (d / LABELS).write_bytes((d / TEST_LABELS).read_bytes()),
        "256 images",
    ),
    "one class": (
        lambda d: repack(d / LABELS, lambda raw: raw[:8] + bytes(len(raw) - 8)),
        "a single class",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_dataset_is_refused(
    stripes: Path, damage: Callable[[Path], None], message: str
) -> None:
    """The error names the file and what is wrong with it."""
    damage(stripes)
    with pytest.raises(DatasetInvalid) as caught:
        load(stripes)
    assert message in caught.value.message


def test_values_are_the_bytes_of_the_file(stripes: Path) -> None:
    """Row-major, no offset."""
    raw = gzip.decompress((stripes / IMAGES).read_bytes())
    expected = np.frombuffer(raw[16:], np.uint8).reshape(256, 8, 8)
    assert np.array_equal(load(stripes).train.images, expected)
