"""A split of a dataset in memory, in batches as networks take them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor


class Examples(Protocol):
    """One split; all of it is in memory, and a batch is one gather."""

    @property
    def targets(self) -> Tensor:
        """What belongs to each example, ``[N, ...]``."""

    def __len__(self) -> int: ...

    def inputs(self, rows: Tensor | slice) -> tuple[Tensor, ...]:
        """The network's inputs for those examples, as they are."""

    def augmentations(self, steps: int, generator: torch.Generator) -> Sequence[Any]:
        """What to do to each of an epoch's batches, chosen at random."""

    def augmented(self, rows: Tensor, augmentation: Any) -> tuple[Tensor, ...]:
        """As :meth:`inputs`, with that done."""

    def augmented_targets(self, rows: Tensor, augmentation: Any) -> Tensor:
        """What belongs to what :meth:`augmented` gives; mixed examples have a share of each class,
        FP32 ``[N, classes]``."""


class ArrayExamples:
    """``Examples`` that are rows of tensors, and stay as they are."""

    def __init__(self, tensors: tuple[Tensor, ...], targets: Tensor) -> None:
        self._tensors = tensors
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def inputs(self, rows: Tensor | slice) -> tuple[Tensor, ...]:
        return tuple(tensor[rows] for tensor in self._tensors)

    def augmentations(self, steps: int, generator: torch.Generator) -> Sequence[Any]:
        return [None] * steps

    def augmented(self, rows: Tensor, augmentation: Any) -> tuple[Tensor, ...]:
        return self.inputs(rows)

    def augmented_targets(self, rows: Tensor, augmentation: Any) -> Tensor:
        return self.targets[rows]


def held_out(examples: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows to hold out, each in order; chosen by the seed.

    At least one row is held out of a share above 0, and at least one is left.
    """
    if not share:
        return torch.arange(examples), torch.arange(0)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(examples, generator=generator)
    count = min(max(1, round(examples * share)), examples - 1)
    return order[count:].sort().values, order[:count].sort().values
