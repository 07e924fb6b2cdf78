"""Network modules that recipes build, and the wrapper that serves one on raw pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

from lepton_training.recipes.recipe import ImageShape

INPUT, OUTPUT, BATCH = "images", "probabilities", "batch"
"""Names in the exported graph: its tensors, and the dimension that varies."""


class ConvStack(nn.Module):
    """FP32 ``[N, 1, H, W]`` in [0, 1] to FP32 logits ``[N, classes]``."""

    def __init__(self, shape: ImageShape, *, padding: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, padding=padding)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=padding)
        self.conv3 = nn.Conv2d(64, 64, 3, padding=padding)
        height, width = (_after(side, padding) for side in (shape.height, shape.width))
        self.dense1 = nn.Linear(64 * height * width, 64)
        self.dense2 = nn.Linear(64, shape.classes)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self._pool_relu(self.conv1(pixels))
        hidden = self._pool_relu(self.conv2(hidden))
        hidden = F.relu(self.conv3(hidden))
        hidden = F.relu(self.dense1(hidden.flatten(1)))
        return self.dense2(hidden)  # type: ignore[no-any-return]  # nn.Module calls are Any

    def _pool_relu(self, hidden: Tensor) -> Tensor:
        # ReLU and max commute exactly. In training the ReLU works on a quarter of the values
        # when it comes second; in the exported graph it fuses into the convolution when first.
        if self.training:
            return F.relu(F.max_pool2d(hidden, 2))
        return F.max_pool2d(F.relu(hidden), 2)


def _after(side: int, padding: int) -> int:
    """A side's length after conv, pool, conv, pool, conv."""
    shrink = 2 - 2 * padding
    return ((side - shrink) // 2 - shrink) // 2 - shrink


class Served(nn.Module):
    """A trained network with the preprocessing it needs: raw pixels in, probabilities out.

    UINT8 ``[N, H, W]`` (0 to 255) to FP32 ``[N, classes]``. Exported as one
    graph, so that what is served cannot drift from what was trained.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return torch.softmax(self.network(scale(images)), dim=1)


def scale(images: Tensor) -> Tensor:
    """UINT8 ``[N, H, W]`` to FP32 ``[N, 1, H, W]`` in [0, 1]; used in training and in serving."""
    return images.unsqueeze(1) * (1.0 / 255.0)  # type promotion makes it FP32 in one pass
