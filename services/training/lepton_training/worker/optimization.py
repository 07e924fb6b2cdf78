"""One optimizer step, and the learning rate at each."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

from lepton_training.recipes.hyperparameters import SupervisedHyperparameters


def make_optimizer(
    network: nn.Module, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Adam (Kingma and Ba 2015), all parameters in one fused call."""
    return torch.optim.Adam(
        network.parameters(), lr=learning_rate, weight_decay=weight_decay, fused=True
    )


def take_step(
    network: nn.Module, optimizer: torch.optim.Optimizer, pixels: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Trains on one batch; returns its mean cross-entropy and its logits, both detached."""
    logits = network(pixels)
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's own annotation is missing
    optimizer.step()
    return loss.detach(), logits.detach()


def learning_rate_at(step: int, steps: int, hyperparameters: SupervisedHyperparameters) -> float:
    """The rate of step ``step`` (from 0) of ``steps``: a function of the step alone, so that a
    resumed job goes on exactly as it would have.

    Linear warm-up, then constant or a cosine to zero (Loshchilov and Hutter 2017,
    without restarts).
    """
    peak = hyperparameters.learning_rate
    warm = round(steps * hyperparameters.warmup)
    if step < warm:
        return peak * (step + 1) / warm
    if hyperparameters.schedule == "constant":
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
