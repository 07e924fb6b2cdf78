"""What a test split is known by: models that were asked about the same rows can be compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

_FIELD, _COLUMN = "\x1f", b"\x1e"
"""Separators of ASCII: texts that are cut elsewhere have another digest."""


def digest_of_arrays(*arrays: npt.NDArray[np.generic]) -> str:
    """``sha256:<64 hex digits>`` of numbers, their types and shapes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return f"sha256:{digest.hexdigest()}"


def digest_of_texts(columns: Mapping[str, Iterable[str]]) -> str:
    """``sha256:<64 hex digits>`` of columns of text, in whatever order the columns come."""
    digest = hashlib.sha256()
    for name in sorted(columns):
        digest.update(name.encode() + _COLUMN)
        digest.update(_FIELD.join(columns[name]).encode() + _COLUMN)
    return f"sha256:{digest.hexdigest()}"
