"""Rows of different lengths in one batch, padded with zeros to the longest.

Lengths are those of an input's free dimensions beyond the batch. An output is cut back in every
dimension that bears the name of such a dimension in the model's graph (ONNX's ``dim_param``);
what the padding does to the values is the model's affair.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lepton_inference.signature import Signature, Tails
from lepton_inference.tensors import Column, Datatype

_MOST_BYTES = 64 << 20
"""Of one padded batch, so that one long row among short ones does not fill the memory."""
_TEXT_BYTES = 8
"""An element of BYTES in an array of objects."""

Part = tuple[Sequence[Column], int, Tails]
"""A request's columns, rows and tails."""


class Padding:
    """Of one model; its signature is batched and has a free dimension beyond the batch."""

    def __init__(self, signature: Signature) -> None:
        self._inputs = signature.inputs
        self._free = tuple(tuple(dim < 0 for dim in spec.shape[1:]) for spec in signature.inputs)
        self._places: dict[str, list[tuple[int, int]]] = {}
        """Name of a dimension -> (input, axis of its tail) pairs that bear it."""
        for index, spec in enumerate(signature.inputs):
            for axis, name in enumerate(spec.names[1:]):
                if name:
                    self._places.setdefault(name, []).append((index, axis))
        self._cuts = [
            [
                (axis, self._places[name][0])
                for axis, name in enumerate(spec.names)
                if axis > 0 and name in self._places
            ]
            for spec in signature.outputs
        ]
        """For each output, its axes that are cut back, each with where its length is found."""

    def key(self, tails: Tails) -> Tails:
        """Requests of one key may share a batch: -1 stands for any length.

        A request whose inputs disagree about a dimension of one name is no match for any
        other: padding would hide from the model that they do.
        """
        for places in self._places.values():
            if len({tails[index][axis] for index, axis in places}) > 1:
                return tails
        return tuple(
            tuple(-1 if free else dim for free, dim in zip(frees, tail, strict=True))
            for frees, tail in zip(self._free, tails, strict=True)
        )

    def longest(self, one: Tails, other: Tails) -> Tails:
        """What both are padded to."""
        return tuple(
            tuple(max(pair) for pair in zip(*tails, strict=True))
            for tails in zip(one, other, strict=True)
        )

    def fits(self, tails: Tails, rows: int) -> bool:
        """Whether so many rows padded to ``tails`` are few enough bytes."""
        row = sum(
            math.prod(tail) * (spec.datatype.itemsize or _TEXT_BYTES)
            for spec, tail in zip(self._inputs, tails, strict=True)
        )
        return row * rows <= _MOST_BYTES

    def pad(self, parts: Sequence[Part]) -> tuple[list[list[Column]], Tails]:
        """One padded column for each input, and the tails that they have now."""
        tails = parts[0][2]
        for _, _, other in parts[1:]:
            tails = self.longest(tails, other)
        columns: list[list[Column]] = []
        for index, spec in enumerate(self._inputs):
            padded = [(part[index], rows, own[index]) for part, rows, own in parts]
            columns.append([_padded(spec.datatype, padded, tails[index])])
        return columns, tails

    def cut(
        self, arrays: Sequence[np.ndarray[Any, Any]], first: int, rows: int, tails: Tails
    ) -> list[np.ndarray[Any, Any]]:
        """A request's rows of each output, as long as the request was."""
        return [
            array[(slice(first, first + rows), *self._lengths(array.ndim, cuts, tails))]
            for array, cuts in zip(arrays, self._cuts, strict=True)
        ]

    def _lengths(
        self, dimensions: int, cuts: list[tuple[int, tuple[int, int]]], tails: Tails
    ) -> list[slice]:
        slices = [slice(None)] * (dimensions - 1)
        for axis, (index, tail_axis) in cuts:
            slices[axis - 1] = slice(tails[index][tail_axis])
        return slices


def _padded(
    datatype: Datatype, parts: list[tuple[Column, int, tuple[int, ...]]], tail: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    shape = (sum(rows for _, rows, _ in parts), *tail)
    text = datatype.itemsize == 0
    joined = np.full(shape, "", object) if text else np.zeros(shape, datatype.dtype)
    first = 0
    for column, rows, own in parts:
        if not isinstance(column, np.ndarray):
            # Not frombuffer, which refuses a row of no elements.
            column = np.ndarray(  # noqa: PLW2901  the same values, as an array
                (rows, *own), datatype.dtype, column
            )
        joined[(slice(first, first + rows), *map(slice, own))] = column
        first += rows
    return joined
