"""What stands between pixels and a network over images: their scale, edges, texture and colors.

All of it is fixed, and part of the network: it is trained with what it is exported with.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

from lepton_training.recipes.data import ImageShape

_BINS = 16
"""Of the histogram of a channel."""
_PATTERNS = 10
"""Of a histogram of patterns: nine that are uniform, and all others."""
_NEIGHBORS = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
"""Around a pixel, by row and column of a 3x3 field."""
_LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue (ITU-R BT.601), as Pillow makes colors grey."""


def fronted(network: nn.Module, shape: ImageShape) -> nn.Module:
    """``network``, which takes ``shape.inputs`` channels, with what the data asks for in front."""
    if not shape.mean and not shape.features:
        return network
    return Fronted(network, shape)


class Fronted(nn.Module):
    """FP32 ``[N, C, H, W]`` in [0, 1] to FP32 logits ``[N, classes]``.

    Histograms are of whole images: they have a linear layer of their own, whose outputs are
    added to the network's (wide and deep, Cheng et al. 2016); it begins as nothing.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, network: nn.Module, shape: ImageShape) -> None:
        super().__init__()
        self.network = network
        self._features = frozenset(shape.features)
        mean, deviation = shape.mean or (0.0,), shape.deviation or (1.0,)
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(1, -1, 1, 1))
        width = _PATTERNS * ("texture" in shape.features)
        width += _BINS * shape.channels * ("color" in shape.features)
        self.beside = nn.Linear(width, shape.classes, bias=False) if width else None
        if self.beside is not None:
            nn.init.zeros_(self.beside.weight)

    def forward(self, pixels: Tensor) -> Tensor:
        seen = (pixels - self.mean) / self.deviation
        if "edges" in self._features:
            seen = torch.cat([seen, edges(pixels)], dim=1)
        outputs: Tensor = self.network(seen)
        if self.beside is None:
            return outputs
        histograms = []
        if "texture" in self._features:
            histograms.append(texture(pixels))
        if "color" in self._features:
            histograms.append(colors(pixels))
        return outputs + self.beside(torch.cat(histograms, dim=1))  # type: ignore[no-any-return]  # modules are Any


def edges(pixels: Tensor) -> Tensor:
    """How steep the grey of FP32 ``[N, C, H, W]`` in [0, 1] is: FP32 ``[N, 1, H, W]``.

    The length of Sobel's gradient, 1 where black meets white in a straight line. Beyond the
    border the image goes on as at the border.
    """
    grey = pixels
    if pixels.shape[1] == 3:
        grey = (pixels * pixels.new_tensor(_LUMA).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    across = pixels.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack([across, across.T]).unsqueeze(1)
    steep = F.conv2d(F.pad(grey, [1, 1, 1, 1], mode="replicate"), kernels)
    # Where it is flat a square root has no slope; 1e-12 is below what a pixel can tell.
    return (steep.square().sum(dim=1, keepdim=True) + 1e-12).sqrt() / 4


def texture(pixels: Tensor) -> Tensor:
    """A histogram of uniform local binary patterns: FP32 ``[N, 10]``, 1 where all are as frequent.

    Of a pixel's eight neighbors those that are not darker are counted, 0 to 8, if going around
    there are two changes at most; the tenth bin has all other pixels (Ojala, Pietikäinen and
    Mäenpää 2002, P=8, R=1 without interpolation).
    """
    # Whole numbers, whose comparisons come out the same wherever they are done.
    grey = torch.round(pixels * 255).sum(dim=1)
    height, width = grey.shape[1:]
    field = F.pad(grey.unsqueeze(1), [1, 1, 1, 1], mode="replicate").squeeze(1)
    around = [
        (field[:, down : down + height, right : right + width] >= grey).to(pixels.dtype)
        for down, right in _NEIGHBORS
    ]
    bright = torch.stack(around).sum(dim=0)
    changes = torch.stack(
        [(a - b).abs() for a, b in zip(around, around[1:] + around[:1], strict=True)]
    )
    uniform = changes.sum(dim=0) <= 2
    pattern = torch.where(uniform, bright, torch.full_like(bright, _PATTERNS - 1))
    shares = [(pattern == one).to(pixels.dtype).mean(dim=(1, 2)) for one in range(_PATTERNS)]
    return torch.stack(shares, dim=1) * _PATTERNS


def colors(pixels: Tensor) -> Tensor:
    """A histogram of each channel in 16 bins: FP32 ``[N, 16 C]``, 1 where all are as frequent."""
    levels = torch.round(pixels * 255)
    least = [
        (levels >= low).to(pixels.dtype).mean(dim=(2, 3)) for low in range(0, 256, 256 // _BINS)
    ]
    above = torch.stack([*least, torch.zeros_like(least[0])], dim=2)
    return (above[:, :, :-1] - above[:, :, 1:]).flatten(1) * _BINS
