"""What takes a training step: by gradients of one loss, or of two networks against each other."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

from lepton_training.recipes.fitting import FitHyperparameters
from lepton_training.worker.adversarial_networks import AdversarialPair
from lepton_training.worker.objectives import Objective
from lepton_training.worker.optimization import make_optimizer, take_step

_REAL = 0.9
"""What the discriminator is told of real images: one-sided smoothing (Salimans et al. 2016)."""


class Learner(Protocol):
    """Takes steps; all that the next one depends on, beside the weights, is in its state."""

    def step(
        self, inputs: tuple[Tensor, ...], targets: Tensor, *, rate: float
    ) -> tuple[Tensor, Tensor]:
        """Trains on one batch; returns its mean loss and its outputs, both detached."""

    def state(self) -> dict[str, Any]: ...

    def load(self, state: dict[str, Any]) -> None: ...


def make_learner(
    network: nn.Module, objective: Objective, hyperparameters: FitHyperparameters
) -> Learner:
    """The learner for ``network``; its optimizers hold the network's parameters."""
    if isinstance(network, AdversarialPair):
        return AdversarialLearner(network, hyperparameters)
    return GradientLearner(network, objective, hyperparameters)


class GradientLearner:
    """One network, one loss."""

    def __init__(
        self, network: nn.Module, objective: Objective, hyperparameters: FitHyperparameters
    ) -> None:
        self._network, self._objective = network, objective
        self._clip = hyperparameters.gradient_clip
        self._optimizer = make_optimizer(network, hyperparameters)

    def step(
        self, inputs: tuple[Tensor, ...], targets: Tensor, *, rate: float
    ) -> tuple[Tensor, Tensor]:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        return take_step(
            self._network,
            self._optimizer,
            self._objective,
            inputs,
            targets,
            gradient_clip=self._clip,
        )

    def state(self) -> dict[str, Any]:
        return self._optimizer.state_dict()

    def load(self, state: dict[str, Any]) -> None:
        self._optimizer.load_state_dict(state)


class AdversarialLearner:
    """A generator against a discriminator (Goodfellow et al. 2014), non-saturating loss.

    The loss it tells is the generator's; the outputs are the images that were generated.
    """

    def __init__(self, pair: AdversarialPair, hyperparameters: FitHyperparameters) -> None:
        self._pair = pair
        self._clip = hyperparameters.gradient_clip
        self._optimizers = {
            "generator": make_optimizer(pair.generator, hyperparameters),
            "discriminator": make_optimizer(pair.discriminator, hyperparameters),
        }

    def step(
        self, inputs: tuple[Tensor, ...], targets: Tensor, *, rate: float
    ) -> tuple[Tensor, Tensor]:
        for optimizer in self._optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
        (real,) = inputs
        noise = torch.randn(len(real), self._pair.latent).to(real.device)
        asked, fake = self._pair.asked(noise), self._pair.generator(noise)

        told_real = self._pair.discriminator(real, targets)
        told_fake = self._pair.discriminator(fake.detach(), asked)
        wanted = torch.full_like(told_real, _REAL)
        loss = F.binary_cross_entropy_with_logits(told_real, wanted)
        loss = loss + F.binary_cross_entropy_with_logits(told_fake, torch.zeros_like(told_fake))
        self._update("discriminator", self._pair.discriminator, loss)

        told = self._pair.discriminator(fake, asked)
        loss = F.binary_cross_entropy_with_logits(told, torch.ones_like(told))
        self._update("generator", self._pair.generator, loss)
        return loss.detach(), fake.detach()

    def _update(self, name: str, network: nn.Module, loss: Tensor) -> None:
        optimizer = self._optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's own annotation is missing
        if self._clip:
            nn.utils.clip_grad_norm_(network.parameters(), self._clip)
        optimizer.step()

    def state(self) -> dict[str, Any]:
        return {name: optimizer.state_dict() for name, optimizer in self._optimizers.items()}

    def load(self, state: dict[str, Any]) -> None:
        for name, optimizer in self._optimizers.items():
            optimizer.load_state_dict(state[name])
