"""The gzipped IDX files of MNIST and its kin.

IDX (Y. LeCun, C. Cortes, C. Burges, "The MNIST database", file formats): two zero bytes, a type
byte, the number of dimensions, each dimension as four big-endian bytes, then the values.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from lepton_mesh.texts import counted
from lepton_storage.errors import DatasetInvalid

_UNSIGNED_BYTE = 0x08
_PIECE = 1 << 20
_WINDOW = 4096
"""Compressed bytes at a time: zlib copies what is left of them after each member and each piece."""
MAX_VALUES = 1 << 31
"""In one file: gzip shrinks zeros a thousandfold, and a thread reads all that is announced."""
_REMEDY = "upload the file as it was published"

TRAIN_IMAGES = "train-images-idx3-ubyte.gz"
TRAIN_LABELS = "train-labels-idx1-ubyte.gz"
TEST_IMAGES = "t10k-images-idx3-ubyte.gz"
TEST_LABELS = "t10k-labels-idx1-ubyte.gz"
FILES = (TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS)


class _Content(NamedTuple):
    shape: tuple[int, ...]
    values: frozenset[int]
    """The distinct values, of labels only."""


def check_idx(files: Mapping[str, Callable[[], Iterator[bytes]]]) -> dict[str, str]:
    """Checks the four files and that labels match images.

    Raises:
        DatasetInvalid: Names the file, what is wrong with it and the remedy.
    """
    for path in FILES:
        if path not in files:
            raise _invalid(path, "is missing", f"an IDX version has {', '.join(FILES)}; add it")
    for path in files:
        if path not in FILES:
            raise _invalid(
                path,
                "does not belong in an IDX version",
                "leave it out, or use the format RAW (`--format raw`)",
            )
    contents = {path: _read(path, files[path]()) for path in FILES}
    for images, labels in ((TRAIN_IMAGES, TRAIN_LABELS), (TEST_IMAGES, TEST_LABELS)):
        have, want = contents[labels].shape[0], contents[images].shape[0]
        if have != want:
            raise _invalid(
                labels,
                f"has {have} labels for the {want} images of {images}",
                "upload images and labels of one and the same set",
            )
    train, test = contents[TRAIN_IMAGES].shape[1:], contents[TEST_IMAGES].shape[1:]
    if train != test:
        raise _invalid(
            TEST_IMAGES,
            f"has images of {_by(test)} while {TRAIN_IMAGES} has {_by(train)}",
            "upload training and test images of one size",
        )
    unseen = contents[TEST_LABELS].values - contents[TRAIN_LABELS].values
    if unseen:
        raise _invalid(
            TEST_LABELS,
            f"has the label {min(unseen)}, which {TRAIN_LABELS} never has",
            "upload training and test labels of one set",
        )
    return {
        "train_examples": str(contents[TRAIN_IMAGES].shape[0]),
        "test_examples": str(contents[TEST_IMAGES].shape[0]),
        "image_shape": _by(train),
        "classes": str(len(contents[TRAIN_LABELS].values)),
    }


def _read(path: str, compressed: Iterator[bytes]) -> _Content:
    """Reads one file to its end; the whole of it is never in memory."""
    dimensions = 3 if "images" in path else 1
    header_bytes = 4 + 4 * dimensions
    head = b""
    shape: tuple[int, ...] = ()
    expected, found = -1, 0
    values: set[int] = set()
    for piece in _decompress(path, compressed):
        data = piece
        if expected < 0:
            head += piece
            if len(head) >= 4:
                _check_magic(path, head[:4], dimensions)
            if len(head) < header_bytes:
                continue
            shape = _shape(path, head[:header_bytes], dimensions)
            expected = math.prod(shape)
            data = head[header_bytes:]
        found += len(data)
        if found > expected:
            raise _invalid(path, f"has more than the {expected} values it announces", _REMEDY)
        if dimensions == 1:
            values.update(data)
    if expected < 0:
        raise _invalid(
            path, f"ends after {counted(len(head), 'byte')}, within its IDX header", _REMEDY
        )
    if found < expected:
        raise _invalid(path, f"has {found} of the {expected} values it announces", _REMEDY)
    return _Content(shape, frozenset(values))


def _check_magic(path: str, magic: bytes, dimensions: int) -> None:
    want = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if magic != want:
        raise _invalid(
            path,
            f"begins with 0x{magic.hex()}, not with 0x{want.hex()} (IDX, unsigned bytes, "
            f"{dimensions} dimension{'s' * (dimensions > 1)})",
            _REMEDY,
        )


def _shape(path: str, header: bytes, dimensions: int) -> tuple[int, ...]:
    shape = tuple(int.from_bytes(header[4 + 4 * i : 8 + 4 * i], "big") for i in range(dimensions))
    if 0 in shape:
        raise _invalid(path, f"announces the shape {_by(shape)}, which is empty", _REMEDY)
    if math.prod(shape) > MAX_VALUES:
        raise _invalid(
            path,
            f"announces {math.prod(shape)} values, more than the {MAX_VALUES} that are checked",
            "split it into smaller sets, or use the format RAW (`--format raw`)",
        )
    return shape


def _decompress(path: str, compressed: Iterator[bytes]) -> Iterator[bytes]:
    """Plain bytes in pieces of at most 1 MiB; checks the gzip trailer's CRC-32 and length."""
    inflate = zlib.decompressobj(wbits=31)
    begun = False
    for window in _windows(compressed):
        data = window
        while data:
            if inflate.eof:  # RFC 1952: a file may be several members in a row
                inflate = zlib.decompressobj(wbits=31)
            try:
                yield inflate.decompress(data, _PIECE)
            except zlib.error as error:
                what = "is damaged" if begun else "is not a gzip file"
                raise _invalid(path, f"{what} ({error})", _REMEDY) from None
            begun = True
            data = inflate.unconsumed_tail or inflate.unused_data
    if not inflate.eof:
        raise _invalid(path, "is cut off: its gzip stream has no end", _REMEDY)


def _windows(pieces: Iterator[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        for start in range(0, len(piece), _WINDOW):
            yield piece[start : start + _WINDOW]


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _invalid(path: str, what: str, remedy: str) -> DatasetInvalid:
    return DatasetInvalid(f"{path} {what}; {remedy}", file=path)
