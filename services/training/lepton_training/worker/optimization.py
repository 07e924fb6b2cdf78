"""One optimizer step, and the learning rate at each."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lepton_training.recipes.fitting import FitHyperparameters
from lepton_training.worker.objectives import Objective

_ONE_CYCLE_FIRST = 25.0
_ONE_CYCLE_LAST = 1e4
"""What the peak is divided by for a cycle's first rate, and that for its last."""


def make_optimizer(
    network: nn.Module, hyperparameters: FitHyperparameters
) -> torch.optim.Optimizer:
    """The optimizer of the spec; all parameters in one fused call where PyTorch has one."""
    parameters = network.parameters()
    rate, decay = hyperparameters.learning_rate, hyperparameters.weight_decay
    betas = (getattr(hyperparameters, "beta1", 0.9), 0.999)
    match hyperparameters.optimizer:
        case "adam":
            return torch.optim.Adam(
                parameters, lr=rate, betas=betas, weight_decay=decay, fused=True
            )
        case "adamw":
            return torch.optim.AdamW(
                parameters, lr=rate, betas=betas, weight_decay=decay, fused=True
            )
        case "sgd":
            return torch.optim.SGD(
                parameters,
                lr=rate,
                momentum=hyperparameters.momentum,
                nesterov=hyperparameters.nesterov,
                weight_decay=decay,
                fused=True,
            )
        case "rmsprop":
            return torch.optim.RMSprop(
                parameters,
                lr=rate,
                momentum=hyperparameters.momentum,
                weight_decay=decay,
                foreach=True,
            )
        case "adagrad":
            return torch.optim.Adagrad(parameters, lr=rate, weight_decay=decay, fused=True)


def take_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    objective: Objective,
    inputs: tuple[Tensor, ...],
    targets: Tensor,
    *,
    gradient_clip: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Trains on one batch; returns its mean loss and its outputs, both detached."""
    outputs = network(*inputs)
    loss = objective.loss(outputs, targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's own annotation is missing
    if gradient_clip:
        nn.utils.clip_grad_norm_(network.parameters(), gradient_clip)
    optimizer.step()
    return loss.detach(), outputs.detach()


def learning_rate_at(
    step: int,
    steps: int,
    hyperparameters: FitHyperparameters,
    *,
    steps_per_epoch: int = 1,
    decays: int = 0,
) -> float:
    """The rate of step ``step`` (from 0) of ``steps``: a function of its arguments alone, so that
    a resumed job goes on exactly as it would have.

    Linear warm-up, then what the schedule says: a cosine to zero (Loshchilov and Hutter 2017,
    without restarts), one cycle (Smith and Topin 2018, both parts a cosine), or steps.

    Args:
        decays: How often the loss has ceased to fall; of the plateau schedule.
    """
    peak, schedule = hyperparameters.learning_rate, hyperparameters.schedule
    warm = round(steps * hyperparameters.warmup)
    if schedule == "one_cycle":
        first, last = peak / _ONE_CYCLE_FIRST, peak / _ONE_CYCLE_FIRST / _ONE_CYCLE_LAST
        if step < warm:
            return peak + (first - peak) * _cosine(step / warm)
        return last + (peak - last) * _cosine((step - warm) / max(1, steps - warm))
    if step < warm:
        return peak * (step + 1) / warm
    if schedule == "cosine":
        return peak * _cosine((step - warm) / max(1, steps - warm))
    if schedule == "step":
        decays = step // steps_per_epoch // hyperparameters.decay_epochs
    if schedule in ("step", "plateau"):
        return peak * float(hyperparameters.decay_factor**decays)
    return peak


def _cosine(part: float) -> float:
    """From 1 at 0 to 0 at 1."""
    return 0.5 * (1 + math.cos(math.pi * part))
