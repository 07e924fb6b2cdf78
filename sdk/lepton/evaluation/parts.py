"""The parts of one input that can be absent: its numbers and categories, the words of a text, the
patches of an image."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_RUNS_MAX = 100
"""Longer texts are cut into as many runs of words."""
_PATCHES = 8
"""Of an image, along each side."""


class Parts(Protocol):
    """Of one input."""

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def values(self) -> Sequence[str]:
        """What each part is, for people; empty where its name says it."""

    @property
    def differ(self) -> Array:
        """BOOL ``[parts]``: false where a part that is absent leaves the input as it is."""

    def inputs(self, there: Array) -> dict[str, Array]:
        """The model's inputs by name, a row for each of ``there`` BOOL ``[N, parts]``."""


class Elements:
    """Each number or category of a row by itself; a baseline's stands for one that is absent."""

    def __init__(
        self,
        row: Mapping[str, Array],
        baseline: Mapping[str, Array],
        columns: Sequence[str] = (),
    ) -> None:
        """
        Args:
            row: The inputs by name, without the batch.
            baseline: As ``row``, with the same shapes.
            columns: Names of the places of the last dimension, where the row is a window of steps
                ``[window, columns]``.
        """
        self._row, self._baseline = row, baseline
        self.names = [
            name for key, array in row.items() for name in _names(key, array.shape, columns)
        ]
        self.values = [_shown(each) for array in row.values() for each in array.ravel().tolist()]
        self.differ = np.concatenate(
            [_differ(row[name].ravel(), baseline[name].ravel()) for name in row]
        )

    def inputs(self, there: Array) -> dict[str, Array]:
        found, begin = {}, 0
        for name, values in self._row.items():
            end = begin + values.size
            chosen = there[:, begin:end].reshape(len(there), *values.shape)
            found[name] = np.where(chosen, values, self._baseline[name])
            begin = end
        return found


class Words:
    """The words of a text, those of a long one in runs; a text lacks those that are absent."""

    def __init__(self, name: str, text: str) -> None:
        """``name``: of the input, BYTES ``[N, 1]``."""
        self._name = name
        words = re.findall(r"\S+\s*", text)
        count = min(len(words), _RUNS_MAX)
        runs = np.array_split(np.arange(len(words)), count) if words else []
        self._runs = ["".join(words[word] for word in run) for run in runs]
        self.names = [
            f"word {run[0] + 1}" if len(run) == 1 else f"words {run[0] + 1}-{run[-1] + 1}"
            for run in runs
        ]
        self.values = [run.strip() for run in self._runs]
        self.differ = np.ones(len(runs), bool)

    def inputs(self, there: Array) -> dict[str, Array]:
        texts = np.empty((len(there), 1), object)
        for row, chosen in enumerate(there):
            texts[row, 0] = "".join(
                run for run, one in zip(self._runs, chosen, strict=True) if one
            ).rstrip()
        return {self._name: texts}


class Patches:
    """The patches of an image, eight along a side or fewer; those that are absent are black."""

    def __init__(self, name: str, image: Array) -> None:
        """``image``: UINT8 ``[H, W]``, or ``[H, W, 3]`` of colors."""
        self._name, self._image = name, image
        rows, columns = (_edges(side) for side in image.shape[:2])
        self._heights, self._widths = np.diff(rows), np.diff(columns)
        self._grid = (len(self._heights), len(self._widths))
        places = [(top, left) for top in range(self._grid[0]) for left in range(self._grid[1])]
        self.names = [
            f"rows {rows[top]}-{rows[top + 1] - 1}, columns {columns[left]}-{columns[left + 1] - 1}"
            for top, left in places
        ]
        self.values = [""] * len(places)
        self.differ = np.array(
            [
                image[rows[top] : rows[top + 1], columns[left] : columns[left + 1]].any()
                for top, left in places
            ]
        )

    def inputs(self, there: Array) -> dict[str, Array]:
        grid = there.reshape(len(there), *self._grid)
        pixels = grid.repeat(self._heights, axis=1).repeat(self._widths, axis=2)
        if self._image.ndim == 3:
            pixels = pixels[..., None]
        return {self._name: self._image * pixels}


def _names(key: str, shape: tuple[int, ...], columns: Sequence[str]) -> Iterator[str]:
    size = int(np.prod(shape))
    for place in np.ndindex(shape):
        if size == 1:
            yield key
        elif len(shape) == 2 and len(columns) == shape[1]:
            yield f"{columns[place[1]]}, {shape[0] - place[0]} before"
        else:
            yield f"{key}[{', '.join(map(str, place))}]"


def _differ(row: Array, baseline: Array) -> Array:
    different: Array = row != baseline
    if row.dtype.kind == "f":  # missing in both is no difference
        different &= ~(np.isnan(row) & np.isnan(baseline))
    return different


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _edges(side: int) -> Array:
    """Where patches begin and end along a side, as near to one length as may be."""
    return np.linspace(0, side, min(side, _PATCHES) + 1).round().astype(int)
