"""Changes to training images, chosen at random: whole batches at a time, by a seed of each step.

Random crops with padding and flips (He et al. 2015, section 4.2), random erasing (Zhong et
al. 2017), mixup (Zhang et al. 2017).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor

_ERASED = (0.02, 0.2)
"""Smallest and largest share of an image that is erased."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """What is done to images; all at rest does nothing."""

    crop: int = 0
    """Pixels that an image moves by at most, in each direction."""
    flip: str = "none"
    """``none``, ``horizontal``, ``vertical`` or ``both``."""
    rotation: float = 0.0
    """Degrees at most, either way."""
    brightness: float = 0.0
    contrast: float = 0.0
    """Share by which each is changed at most, either way."""
    erase: float = 0.0
    """Share of the images of which a rectangle is erased."""
    mixup: float = 0.0
    """Parameter of the beta distribution that says how much of another image comes in."""

    @classmethod
    def of(cls, hyperparameters: Any) -> Augmentation:
        """Of a recipe's ``hyperparameters``, which may have none of it."""
        names = {one.name for one in fields(cls)}
        return cls(**{name: v for name in names if (v := getattr(hyperparameters, name, None))})

    def __bool__(self) -> bool:
        return self != Augmentation()

    def __call__(self, images: Tensor, seed: int) -> Tensor:
        """``images`` FP32 ``[N, C, H, W]`` in [0, 1], changed; the same for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        if self.rotation:
            images = self._turned(images, generator)
        else:
            images = self._cropped(self._flipped(images, generator), generator)
        images = self._lit(images, generator)
        if self.erase:
            images = self._erased(images, generator)
        if self.mixup:
            share = self.share(seed)
            images = images * share + images.flip(0) * (1 - share)
        return images

    def targets(self, classes: Tensor, count: int, seed: int) -> Tensor:
        """What belongs to the images that a call with that seed gives: ``classes`` INT64 ``[N]``
        as they are, or with mixup the share of each class, FP32 ``[N, count]``."""
        if not self.mixup:
            return classes
        share = self.share(seed)
        wanted = F.one_hot(classes, count).float()
        return wanted * share + wanted.flip(0) * (1 - share)

    def share(self, seed: int) -> float:
        """Of each image itself where another comes in: one for the whole batch, whose images are
        paired from both ends."""
        return float(np.random.default_rng(seed).beta(self.mixup, self.mixup))

    def _flips(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """BOOL ``[N]``: which images are turned left to right, and which upside down."""
        drawn = torch.rand(2, count, generator=generator) < 0.5
        return (
            drawn[0] & (self.flip in ("horizontal", "both")),
            drawn[1] & (self.flip in ("vertical", "both")),
        )

    def _flipped(self, images: Tensor, generator: torch.Generator) -> Tensor:
        if self.flip == "none":
            return images
        across, down = (one[:, None, None, None] for one in self._flips(len(images), generator))
        images = torch.where(across, images.flip(3), images)
        return torch.where(down, images.flip(2), images)

    def _cropped(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Each moved by its own number of pixels; what comes in is black."""
        if not self.crop:
            return images
        count, _, height, width = images.shape
        padded = F.pad(images, [self.crop] * 4)
        moves = torch.randint(0, 2 * self.crop + 1, (2, count, 1), generator=generator)
        rows = moves[0] + torch.arange(height)
        columns = moves[1] + torch.arange(width)
        image = torch.arange(count)[:, None, None]
        # The channels come last of an index in the middle: [N, H, W, C].
        found = padded[image, :, rows[:, :, None], columns[:, None, :]]
        return found.permute(0, 3, 1, 2)

    def _turned(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Rotated, flipped and moved at once, bilinear; what comes in is black."""
        count, _, height, width = images.shape
        angles = (2 * torch.rand(count, generator=generator) - 1) * math.radians(self.rotation)
        across, down = (1.0 - 2.0 * one.float() for one in self._flips(count, generator))
        moves = torch.randint(-self.crop, self.crop + 1, (2, count), generator=generator)
        cos, sin, ratio = angles.cos(), angles.sin(), height / width
        # From places in the result to places in the image, both from -1 to 1.
        matrix = torch.stack(
            [
                torch.stack([cos * across, -sin * ratio * down, 2 * moves[0] / width], 1),
                torch.stack([sin / ratio * across, cos * down, 2 * moves[1] / height], 1),
            ],
            dim=1,
        )
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)

    def _lit(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Brighter or darker, and with more or less contrast around each image's mean."""
        if not self.brightness and not self.contrast:
            return images
        drawn = 2 * torch.rand(2, len(images), 1, 1, 1, generator=generator) - 1
        images = images * (1 + self.brightness * drawn[0])
        if self.contrast:
            mean = images.mean(dim=(1, 2, 3), keepdim=True)
            images = mean + (images - mean) * (1 + self.contrast * drawn[1])
        return images.clamp(0, 1)

    def _erased(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """A rectangle of some images is of one random grey."""
        count, _, height, width = images.shape
        drawn = torch.rand(6, count, 1, generator=generator)
        low, high = _ERASED
        area, stretch = low + (high - low) * drawn[0], 0.5 * 4 ** drawn[1]  # sides of 1:2 to 2:1
        tall = ((area * stretch).sqrt() * height).clamp(1, height)
        wide = ((area / stretch).sqrt() * width).clamp(1, width)
        top, left = drawn[2] * (height - tall), drawn[3] * (width - wide)
        rows, columns = torch.arange(height), torch.arange(width)
        inside_rows = (rows >= top) & (rows < top + tall) & (drawn[4] < self.erase)
        inside_columns = (columns >= left) & (columns < left + wide)
        inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
        return torch.where(inside, drawn[5][:, :, None, None], images)
