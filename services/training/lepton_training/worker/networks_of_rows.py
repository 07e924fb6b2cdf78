"""Network modules over rows of tables."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

from lepton_training.recipes.data import TableShape


class TabularNetwork(nn.Module):
    """FP32 ``[N, numbers]`` and INT64 codes ``[N, categories]`` to FP32 ``[N, outputs]``."""

    def __init__(
        self,
        shape: TableShape,
        *,
        hidden: Sequence[int],
        dropout: float,
        embedding: int,
        one_hot: bool,
    ) -> None:
        """``embedding``: numbers for each category; 0 takes what fits its size."""
        super().__init__()
        self._has_numbers = shape.numbers > 0
        self._sizes = shape.categories
        self.embeddings = nn.ModuleList()
        self._widths = list(shape.categories)
        width = shape.numbers
        for number, size in enumerate(shape.categories):
            if one_hot:
                width += size
                continue
            dimensions = embedding or min(50, round(1.6 * size**0.56))
            # What training did not see is 0: it says nothing.
            self.embeddings.append(nn.Embedding(size, dimensions, padding_idx=0))
            self._widths[number] = dimensions
            width += dimensions
        layers: list[nn.Module] = []
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU(), nn.Dropout(dropout)]
            width = units
        layers.append(nn.Linear(width, shape.outputs))
        self.layers = nn.Sequential(*layers)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.decide(self.embed(*inputs))

    def embed(self, *inputs: Tensor) -> Tensor:
        """FP32 ``[N, width]``: numbers, then what stands for each category."""
        parts = [inputs[0]] if self._has_numbers else []
        if self._sizes:
            columns = inputs[-1].unbind(1)
            if self.embeddings:
                parts += [
                    embed(codes) for embed, codes in zip(self.embeddings, columns, strict=True)
                ]
            else:
                parts += [
                    F.one_hot(codes, size).float()
                    for codes, size in zip(columns, self._sizes, strict=True)
                ]
        return torch.cat(parts, dim=1)

    def decide(self, embedded: Tensor, *_inputs: Tensor) -> Tensor:
        """The outputs for what ``embed`` gave."""
        return self.layers(embedded)  # type: ignore[no-any-return]  # modules are Any

    def sources(self, columns: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        """The column of each place of what ``embed`` gives; ``columns`` has those of the inputs."""
        found = list(columns[0]) if self._has_numbers else []
        categories = columns[-1] if self._sizes else ()
        for name, width in zip(categories, self._widths, strict=True):
            found += [name] * width
        return tuple(found)
