"""Network modules over images that recipes build."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

from lepton_training.recipes.data import ImageShape


class ConvStack(nn.Module):
    """FP32 ``[N, inputs, H, W]`` to FP32 logits ``[N, classes]``."""

    def __init__(self, shape: ImageShape, *, padding: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(shape.inputs, 32, 3, padding=padding)
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


class ResidualStack(nn.Module):
    """FP32 ``[N, inputs, H, W]`` to FP32 logits ``[N, classes]``."""

    def __init__(self, shape: ImageShape, *, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(shape.inputs, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        stages: list[nn.Module] = []
        inside = width
        for stage in range(3):
            outside = width << stage
            for block in range(blocks):
                stages.append(ResidualBlock(inside, outside, 2 if stage and not block else 1))
                inside = outside
        self.stages = nn.Sequential(*stages)
        self.dense = nn.Linear(inside, shape.classes)

    def forward(self, pixels: Tensor) -> Tensor:
        hidden = self.stages(self.stem(pixels))
        return self.dense(hidden.mean(dim=(2, 3)))  # type: ignore[no-any-return]  # as above


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; ``[N, inside, H, W]`` to ``[N, outside, ...]``."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside)
            )

    def forward(self, hidden: Tensor) -> Tensor:
        return F.relu(self.body(hidden) + self.shortcut(hidden))


class Autoencoder(nn.Module):
    """FP32 ``[N, 1, H, W]`` in [0, 1] to FP32 ``[N, 1]``: the mean squared error of each image."""

    def __init__(self, shape: ImageShape, *, hidden: Sequence[int], code: int) -> None:
        super().__init__()
        widths = [shape.height * shape.width, *hidden, code, *reversed(hidden)]
        layers: list[nn.Module] = []
        for inside, outside in pairwise(widths):
            layers += [nn.Linear(inside, outside), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], widths[0]), nn.Sigmoid())

    def forward(self, pixels: Tensor) -> Tensor:
        flat = pixels.flatten(1)
        return (self.layers(flat) - flat).square().mean(dim=1, keepdim=True)  # type: ignore[no-any-return]  # as above


def scale(images: Tensor) -> Tensor:
    """UINT8 ``[N, H, W]``, or ``[N, H, W, 3]`` of colors, to FP32 ``[N, C, H, W]`` in [0, 1]; used
    in training and in serving."""
    channels = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)
    return channels * (1.0 / 255.0)  # type promotion makes it FP32 in one pass
