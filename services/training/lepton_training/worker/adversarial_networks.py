"""A generator and a discriminator of grey images, for each class if it is told which.

Radford, Metz and Chintala, "Unsupervised Representation Learning with Deep Convolutional
Generative Adversarial Networks" (2015), whose first weights these have; Mirza and Osindero,
"Conditional Generative Adversarial Nets" (2014), for the classes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

from lepton_training.recipes.data import ImageShape

_DEVIATION = 0.02
"""Of the first weights (Radford et al. 2015, section 4)."""


class AdversarialPair(nn.Module):
    """Two networks; called, it generates: FP32 noise ``[N, latent]`` to grey pixels FP32
    ``[N, H, W]``, 0 to 255.

    With ``conditional`` the greatest of the first ``shape.classes`` numbers of the noise says the
    class, so that what is served takes nothing but noise and each class is as likely.
    """

    def __init__(self, shape: ImageShape, *, latent: int, width: int, conditional: bool) -> None:
        super().__init__()
        self.latent = latent
        self.classes = shape.classes if conditional and shape.classes > 1 else 0
        self.generator = Generator(shape, latent=latent, width=width, classes=self.classes)
        self.discriminator = Discriminator(shape, width=width, classes=self.classes)
        self.apply(_first_weights)

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)[:, 0] * 255.0  # type: ignore[no-any-return]  # modules are Any

    def asked(self, noise: Tensor) -> Tensor:
        """The class ``[N]`` that each row of noise asks for; 0 where there are none."""
        return noise[:, : max(1, self.classes)].argmax(dim=1)


class Generator(nn.Module):
    """FP32 noise ``[N, latent]`` to FP32 ``[N, 1, H, W]`` in [0, 1]."""

    def __init__(self, shape: ImageShape, *, latent: int, width: int, classes: int) -> None:
        super().__init__()
        self._size = (shape.height, shape.width)
        self._first = (2 * width, math.ceil(shape.height / 4), math.ceil(shape.width / 4))
        self._classes = classes
        self.spread = nn.Linear(latent + classes, math.prod(self._first), bias=False)
        self.layers = nn.Sequential(
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.ConvTranspose2d(width, 1, 4, 2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, noise: Tensor) -> Tensor:
        if self._classes:
            classes = noise[:, : self._classes].argmax(dim=1)
            told = F.one_hot(classes, self._classes)
            noise = torch.cat([noise, told.to(noise.dtype)], dim=1)
        images = self.layers(self.spread(noise).unflatten(1, self._first))
        height, width = self._size
        return images[:, :, :height, :width]  # type: ignore[no-any-return]  # as above


class Discriminator(nn.Module):
    """FP32 ``[N, 1, H, W]`` in [0, 1] to a logit ``[N, 1]``: above 0 is taken for real."""

    def __init__(self, shape: ImageShape, *, width: int, classes: int) -> None:
        super().__init__()
        self._classes = classes
        quarters = math.prod(side // 4 for side in (shape.height, shape.width))
        self.layers = nn.Sequential(
            nn.Conv2d(1 + classes, width, 4, 2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, 2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(2 * width * quarters, 1),
        )

    def forward(self, pixels: Tensor, classes: Tensor) -> Tensor:
        """``classes`` INT64 ``[N]``: what each image is said to be; of no effect without any."""
        if self._classes:
            # As further channels, all one or all nothing. Told in the last layer instead
            # (projection), the generator drew each class in a single way.
            told = F.one_hot(classes, self._classes).to(pixels.dtype)[:, :, None, None]
            pixels = torch.cat([pixels, told.expand(-1, -1, *pixels.shape[2:])], dim=1)
        return self.layers(pixels)  # type: ignore[no-any-return]  # as above


def _first_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, _DEVIATION)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, _DEVIATION)
