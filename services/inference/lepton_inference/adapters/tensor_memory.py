"""Tensors in memory that two processes share, one way: one writes, the other reads.

The memory is a memfd, which has no name that another could open, is gone with its last holder,
and is sealed so that nobody can shrink it under a reader. What has become too large is not made
smaller: both ends go over to other memory.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from lepton_inference.tensors import TensorSpec, decode_bytes, encode_bytes

_ALIGNMENT = 64
_FIRST_BYTES = 1 << 20
_SPARE_USES = 64
"""So many uses in a row that need less than a quarter of the memory say that it is too large."""

Place = list[Any]
"""A tensor's shape, where it begins, and how many bytes it takes; as JSON has it."""


class TensorMemory:
    """One end of the memory.

    Args:
        descriptor: Of the memfd; belongs to this object.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        self._spare_uses = 0
        """Of late, one after another."""

    @classmethod
    def create(cls, name: str) -> TensorMemory:
        """Memory that nobody else has yet."""
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, _FIRST_BYTES)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            return cls(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    @property
    def spare(self) -> bool:
        """Whether it is far larger than what it was used for of late."""
        return self._spare_uses >= _SPARE_USES

    def write(
        self, tensors: Sequence[np.ndarray[Any, Any]], specs: Sequence[TensorSpec]
    ) -> list[Place]:
        """Puts tensors there, over what was there; says where each is.

        Raises MemoryError for more than this process may give a file.
        """
        raws: list[Any] = [
            encode_bytes(array) if spec.datatype.itemsize == 0 else np.ascontiguousarray(array)
            for array, spec in zip(tensors, specs, strict=True)
        ]
        places: list[Place] = []
        end = 0
        for array, raw in zip(tensors, raws, strict=True):
            size = len(raw) if isinstance(raw, bytes) else raw.nbytes
            places.append([array.shape, end, size])
            end += -(-size // _ALIGNMENT) * _ALIGNMENT
        self._make_room(end)
        self._used(end)
        for raw, (_, start, size) in zip(raws, places, strict=True):
            target = np.frombuffer(self._memory, np.uint8, size, start)
            target[:] = np.frombuffer(raw, np.uint8) if isinstance(raw, bytes) else _bytes(raw)
        return places

    def read(
        self, places: Sequence[Place], specs: Sequence[TensorSpec], *, copy: bool
    ) -> list[np.ndarray[Any, Any]]:
        """The tensors at those places; valid until the next write unless they are copied.

        Raises ValueError for a place that no tensor of its specification can be at.
        """
        end = max((start + size for _, start, size in places), default=0)
        if end > len(self._memory):
            self._map(os.fstat(self.descriptor).st_size)
        self._used(end)
        arrays = []
        for (shape, start, size), spec in zip(places, specs, strict=True):
            if spec.datatype.itemsize == 0:
                raw = bytes(self._memory[start : start + size])
                count = int(np.prod(shape, dtype=np.int64))
                arrays.append(decode_bytes(spec.name, raw, count).reshape(shape))
                continue
            count = size // spec.datatype.itemsize
            # Not for zero elements, which may lie at the very end.
            array = (
                np.frombuffer(self._memory, spec.datatype.dtype, count, start)
                if count
                else np.empty(0, spec.datatype.dtype)
            ).reshape(shape)
            arrays.append(array.copy() if copy else array)
        return arrays

    def close(self) -> None:
        """Lets go of the memory."""
        del self._memory  # unmapped once no tensor that was read refers to it
        os.close(self.descriptor)

    def _used(self, size: int) -> None:
        large = len(self._memory) > max(4 * size, _FIRST_BYTES)
        self._spare_uses = self._spare_uses + 1 if large else 0

    def _make_room(self, size: int) -> None:
        if size <= len(self._memory):
            return
        pages = -(-size // mmap.PAGESIZE)
        # By half as much again, so that batches that grow do not map each a little more.
        roomy = max(pages, len(self._memory) * 3 // 2 // mmap.PAGESIZE)
        if not (self._grow(roomy) or self._grow(pages)):
            raise MemoryError(f"{size} bytes of tensors are more than a file may have here")

    def _grow(self, pages: int) -> bool:
        """Whether the memory could be made so large."""
        size = pages * mmap.PAGESIZE
        try:
            os.ftruncate(self.descriptor, size)
        except OSError as error:
            if error.errno == errno.EFBIG:  # RLIMIT_FSIZE; Python ignores the signal
                return False
            raise
        self._map(size)
        return True

    def _map(self, size: int) -> None:
        self._memory = mmap.mmap(self.descriptor, size)


def _bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.reshape(-1).view(np.uint8)
