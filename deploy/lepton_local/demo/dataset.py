"""The images to learn from: a folder, the public mirrors of MNIST, or bundled digits."""

from __future__ import annotations

import gzip
import hashlib
import struct
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lepton_mesh.errors import InvalidArgument

# The MD5 sums are those that the mirrors' users check against: they tell a broken download
# from a whole one, nothing more.
FILES = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_TIMEOUT_SECONDS = 10
_TEST_SHARE = 5
"""Of the bundled digits, every fifth is kept for the test."""


class DataMissing(InvalidArgument):
    reason = "DATA_MISSING"


@dataclass(frozen=True, slots=True)
class Source:
    """Where the four IDX files are, and what is in them."""

    folder: Path
    name: str
    """``mnist``, or ``digits`` for the bundled ones."""
    note: str
    """A sentence for people."""


def find(data: Path | None, workdir: Path, say: Callable[[str], None]) -> Source:
    """The data to use: ``data`` when given, else a mirror's, else scikit-learn's digits.

    Raises:
        DataMissing: ``data`` is given and lacks one of the four files.
    """
    if data is not None:
        missing = [name for name in FILES if not (data / name).is_file()]
        if missing:
            raise DataMissing(
                f"{data} lacks {', '.join(missing)}; give a folder with the four MNIST IDX files, "
                "or leave DATA out"
            )
        return Source(data, "mnist", f"the IDX files in {data}")
    folder = workdir / "mnist"
    for mirror in MIRRORS:
        try:
            _download(mirror, folder)
        except (OSError, ValueError) as error:
            say(f"no MNIST from {mirror}: {error}")
            continue
        return Source(folder, "mnist", f"MNIST from {mirror}")
    note = (
        "scikit-learn's bundled handwritten digits (1,797 images of 8x8), not MNIST: no mirror "
        "could be reached; for MNIST, give its files: make demo DATA=<folder>"
    )
    return Source(write_digits(workdir / "digits"), "digits", note)


def read_test_images(folder: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """The test images, uint8 [N, height, width], and their labels, uint8 [N]."""
    images = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())
    count, height, width = struct.unpack_from(">III", images, 4)
    return (
        np.frombuffer(images, np.uint8, offset=16).reshape(count, height, width),
        np.frombuffer(labels, np.uint8, offset=8),
    )


def write_digits(folder: Path, limit: int | None = None) -> Path:
    """Writes scikit-learn's digits as the four IDX files, grey values scaled to 0..255."""
    from sklearn.datasets import load_digits  # noqa: PLC0415  # a second to import

    digits = load_digits()
    images = np.rint(digits.images[:limit] * (255 / 16)).astype(np.uint8)
    labels = digits.target[:limit].astype(np.uint8)
    test = np.arange(len(labels)) % _TEST_SHARE == 0
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, chosen in (("train", ~test), ("t10k", test)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images[chosen])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels[chosen])
    return folder


def write_idx(path: Path, array: npt.NDArray[np.uint8]) -> None:
    """Writes unsigned bytes as gzipped IDX (http://yann.lecun.com/exdb/mnist, "file formats")."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 0x08, array.ndim, *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes(), mtime=0))


def _download(mirror: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, expected in FILES.items():
        target = folder / name
        if target.is_file() and _md5(target.read_bytes()) == expected:
            continue
        try:
            with urllib.request.urlopen(mirror + name, timeout=_TIMEOUT_SECONDS) as response:  # noqa: S310  # https, from the table above
                content = response.read()
        except urllib.error.URLError as error:
            raise OSError(str(error.reason)) from None
        if _md5(content) != expected:
            raise ValueError(f"{name} is not the file it should be")
        target.write_bytes(content)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
