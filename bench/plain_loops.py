"""The loops that people write with PyTorch alone: what a recipe's own loop is compared with.

The training split as FP32 in memory, one gather per batch, the optimizer as it comes, no metrics,
nothing drawn at random but the order. The network is the recipe's own, except for the cnn's: its
layers are in the usual order (convolution, ReLU, pooling). Texts, which differ in length, are
filled up batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor, nn

from lepton_training.recipes import RECIPES
from lepton_training.recipes.data import TextShape

if TYPE_CHECKING:
    from bench.training_epochs import Task

Tick = Callable[[int], None]
"""Called with the steps so far."""


def plain(task: Task, tick: Tick, *, channels_last: bool) -> None:
    """Trains until the process ends."""
    torch.manual_seed(task.seed)
    if task.recipe == "cnn":
        network: nn.Module = _usual_cnn(task.problem.shape.classes)
    else:
        network = RECIPES[task.recipe].build(task.hyperparameters, task.problem.shape)
    if channels_last:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # Module.to's stub lacks this form
    network.train()
    batches = _batches(task, channels_last=channels_last)
    if task.recipe == "dcgan":
        _adversarial(network, task, batches, tick)
    else:
        _supervised(network, task, batches, tick)


def _batches(task: Task, *, channels_last: bool) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
    """Inputs and targets, batch by batch, for ever."""
    train = task.problem.train
    gather = train.inputs
    if not isinstance(task.problem.shape, TextShape):
        whole = train.inputs(slice(None))
        if channels_last:
            whole = tuple(one.contiguous(memory_format=torch.channels_last) for one in whole)
        gather = lambda rows: tuple(one[rows] for one in whole)  # noqa: E731  one of two gathers
    while True:
        for rows in torch.randperm(len(train)).split(task.hyperparameters.batch_size):
            yield gather(rows), train.targets[rows]


def _supervised(network: nn.Module, task: Task, batches: Iterator[Any], tick: Tick) -> None:
    optimizer = _optimizer(network, task)
    for step, (inputs, targets) in enumerate(batches, start=1):
        optimizer.zero_grad()
        loss = task.problem.objective.loss(network(*inputs), targets)
        loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's own annotation is missing
        if task.hyperparameters.gradient_clip:
            nn.utils.clip_grad_norm_(network.parameters(), task.hyperparameters.gradient_clip)
        optimizer.step()
        tick(step)


def _adversarial(pair: Any, task: Task, batches: Iterator[Any], tick: Tick) -> None:
    """As in PyTorch's DCGAN tutorial: the discriminator on real and fake, then the generator."""
    generator, discriminator = pair.generator, pair.discriminator
    of_generator, of_discriminator = _optimizer(generator, task), _optimizer(discriminator, task)
    for step, ((real,), labels) in enumerate(batches, start=1):
        noise = torch.randn(len(real), pair.latent)
        asked, fake = pair.asked(noise), generator(noise)
        discriminator.zero_grad()
        told = discriminator(real, labels)
        F.binary_cross_entropy_with_logits(told, torch.full_like(told, 0.9)).backward()
        told = discriminator(fake.detach(), asked)
        F.binary_cross_entropy_with_logits(told, torch.zeros_like(told)).backward()
        of_discriminator.step()
        generator.zero_grad()
        told = discriminator(fake, asked)
        F.binary_cross_entropy_with_logits(told, torch.ones_like(told)).backward()
        of_generator.step()
        tick(step)


def _optimizer(network: nn.Module, task: Task) -> torch.optim.Optimizer:
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    rate = task.hyperparameters.learning_rate
    return kinds[task.hyperparameters.optimizer](network.parameters(), lr=rate)


def _usual_cnn(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(576, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )
