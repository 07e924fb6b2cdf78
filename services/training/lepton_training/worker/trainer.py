"""The training loop: whole dataset in memory, one gather per batch, resumable at any step.

Every random number is a function of the seed and of the epoch or step, so a job that was
killed and resumed sees the batches that an unbroken one would have seen. With the
same number of threads throughout it ends with the same weights, to the bit; other
threads add up in another order.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lepton_mesh.errors import FailedPrecondition
from lepton_training.recipes.fitting import FitHyperparameters
from lepton_training.worker import checkpoint as checkpoints
from lepton_training.worker.checkpoint import Checkpoint, Watched
from lepton_training.worker.data.examples import Examples
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.devices import CPU
from lepton_training.worker.learner import make_learner
from lepton_training.worker.objectives import Objective
from lepton_training.worker.optimization import learning_rate_at
from lepton_training.worker.tuning import Plan, ThreadTuner

log = logging.getLogger(__name__)

_FIRST_STEP = 1 << 40
"""Numbers of steps as seeds begin here: epochs are below."""


class LossNotFinite(FailedPrecondition):
    reason = "LOSS_NOT_FINITE"


class Stopped(Exception):
    """Training ended early because :meth:`Trainer.stop` was called; its checkpoint is written."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Numbers taken during training."""

    step: int
    epoch: int
    """From 1."""
    epochs: int
    fraction: float
    """0 to 1, of all steps."""
    metrics: Mapping[str, float]
    epoch_end: bool = False
    epoch_seconds: float = 0.0
    """Wall-clock seconds of the training steps of this epoch; set at its end."""


class Trainer:
    """Trains one network on one problem."""

    def __init__(
        self,
        network: nn.Module,
        problem: Problem,
        hyperparameters: FitHyperparameters,
        *,
        seed: int,
        plan: Plan,
        cpus: int = 1,
        fixed_threads: bool = False,
        report: Callable[[Moment], None],
        checkpoint_path: Path | None = None,
        report_seconds: float = 0.5,
        checkpoint_seconds: float = 10.0,
    ) -> None:
        """The network is brought to the plan's device and memory format before the optimizer is
        built.

        Args:
            cpus: Cores that the job has; threads beyond the plan's are tried while it runs.
            fixed_threads: No other number of threads is tried: it would change the last bits.
            report: Called in the training thread, so it should return quickly.
            checkpoint_path: Where to keep checkpoints, and what to resume from if it exists.
        """
        on_gpu = plan.device != CPU  # its steps return before they are done: nothing to time
        self._threads = ThreadTuner(plan.threads, cpus, fixed=fixed_threads or on_gpu)
        # Gradients of a nearly trained network are full of denormal numbers, which are slow.
        torch.set_flush_denormal(True)
        self._plan = plan
        self._network = network.to(plan.device, memory_format=plan.memory_format)  # type: ignore[call-overload]  # Module.to's stub lacks this form
        self._learner = make_learner(network, problem.objective, hyperparameters)
        self._average = _averaged(network, hyperparameters.ema)
        self._hyperparameters = hyperparameters
        self._seed = seed
        self._report = report
        self._checkpoint_path = checkpoint_path
        self._report_seconds = report_seconds
        self._checkpoint_seconds = checkpoint_seconds

        self._problem = problem
        self._train = problem.train
        self._objective = problem.objective
        self._steps_per_epoch = math.ceil(len(self._train) / hyperparameters.batch_size)
        self._steps = self._steps_per_epoch * hyperparameters.epochs

        self._step = 0
        self._epoch_seconds: tuple[float, ...] = ()
        self._partial_seconds = 0.0
        self._saved = time.perf_counter()
        self._loss_sum = 0.0
        self._correct = 0
        self._watched = Watched()
        self._best: dict[str, Tensor] | None = None
        self._stopping = False

    def stop(self) -> None:
        """Makes :meth:`run` end after the step under way; for signal handlers."""
        self._stopping = True

    def resume(self, state: Checkpoint) -> None:
        """Goes on from ``state`` instead of from the start."""
        self._network.load_state_dict(state.model)
        self._learner.load(state.optimizer)
        if self._average is not None and state.average is not None:
            self._average.load_state_dict(state.average)
        self._step = state.step
        self._epoch_seconds = state.epoch_seconds
        self._partial_seconds = state.partial_seconds
        self._loss_sum, self._correct = state.loss_sum, state.correct
        self._watched, self._best = state.watched, state.best

    def run(self) -> tuple[float, ...]:
        """Trains to the end, which leaves the network as it is to be exported, on the CPU.

        Returns:
            The seconds of each epoch.

        Raises:
            LossNotFinite: The loss is NaN or infinite; the last good checkpoint is kept.
            Stopped: :meth:`stop` was called; the checkpoint is of this step.
        """
        while self._step < self._steps and not self._out_of_patience():
            epoch = self._step // self._steps_per_epoch
            self._train_epoch(epoch)
            metrics = self._means()
            if self._problem.validation is not None:
                metrics |= self._validate(self._problem.validation)
            self._watch(metrics.get("validation_loss", metrics["train_loss"]))
            last = self._step == self._steps or self._out_of_patience()
            if not last:  # the final evaluation follows the last epoch at once
                metrics |= self._test()
            if self._problem.after_epoch is not None:
                metrics |= self._problem.after_epoch(self._evaluated, epoch + 1)
            self._report(
                Moment(
                    self._step,
                    epoch + 1,
                    self._hyperparameters.epochs,
                    1.0 if last else self._step / self._steps,
                    metrics,
                    epoch_end=True,
                    epoch_seconds=self._epoch_seconds[-1],
                )
            )
            self._loss_sum, self._correct = 0.0, 0
            if last or self._stopping or self._checkpoint_due(time.perf_counter()):
                self._save()
            if self._stopping:
                raise Stopped
        self._settle()
        self._network.to(CPU)
        return self._epoch_seconds

    def _train_epoch(self, epoch: int) -> None:
        generator = torch.Generator().manual_seed(_mix(self._seed, epoch))
        order = torch.randperm(len(self._train), generator=generator)
        augmentations = self._train.augmentations(self._steps_per_epoch, generator)
        batch_size = self._hyperparameters.batch_size
        self._network.train()
        begin = reported = time.perf_counter()
        earlier = self._partial_seconds
        losses: list[Tensor] = []
        hits: list[Tensor] = []
        for index in range(self._step % self._steps_per_epoch, self._steps_per_epoch):
            rows = order[index * batch_size : (index + 1) * batch_size]
            targets = self._train.augmented_targets(rows, augmentations[index])
            targets = targets.to(self._plan.device)
            started = time.perf_counter()
            loss, outputs = self._learn(rows, targets, augmentations[index])
            losses.append(loss * len(rows))
            hit = self._objective.hits(outputs, targets)
            if hit is not None:
                hits.append(hit)
            self._step += 1
            now = time.perf_counter()
            self._threads.step_took(now - started)
            if now - reported >= self._report_seconds:
                self._gather(losses, hits)
                self._report(self._moment(epoch))
                reported = now
            if index + 1 == self._steps_per_epoch:
                break  # the epoch's end has a checkpoint of its own
            if self._stopping or self._checkpoint_due(now):
                self._gather(losses, hits)
                self._partial_seconds = earlier + (now - begin)
                self._save()
                if self._stopping:
                    raise Stopped
        self._gather(losses, hits)
        self._epoch_seconds += (earlier + time.perf_counter() - begin,)
        self._partial_seconds = 0.0

    def _learn(self, rows: Tensor, targets: Tensor, augmentation: Any) -> tuple[Tensor, Tensor]:
        inputs = self._plan.arranged(self._train.augmented(rows, augmentation))
        # What a step draws, for dropout and for noise, is of the step alone.
        seed = _mix(self._seed, _FIRST_STEP + self._step)
        torch.default_generator.manual_seed(seed)
        if self._plan.device != CPU:
            torch.cuda.manual_seed(seed)
        learned = self._learner.step(inputs, targets, rate=self._rate())
        if self._average is not None:
            self._average.update_parameters(self._network)
        return learned

    def _rate(self) -> float:
        return learning_rate_at(
            self._step,
            self._steps,
            self._hyperparameters,
            steps_per_epoch=self._steps_per_epoch,
            decays=self._watched.decays,
        )

    def _gather(self, losses: list[Tensor], hits: list[Tensor]) -> None:
        """Adds up what the steps since the last call left, and checks it."""
        if losses:
            self._loss_sum += float(torch.stack(losses).sum())
            losses.clear()
        if hits:
            self._correct += int(torch.stack(hits).sum())
            hits.clear()
        if not math.isfinite(self._loss_sum):
            raise self._not_finite()

    def _not_finite(self) -> LossNotFinite:
        return LossNotFinite(
            f"the loss is no longer a number at step {self._step}; lower "
            f"hyperparameters.learning_rate (now {self._hyperparameters.learning_rate:g})",
            step=self._step,
        )

    def _means(self) -> dict[str, float]:
        """Mean loss, and accuracy where there is one, over the epoch so far."""
        batches = (self._step - 1) % self._steps_per_epoch + 1
        seen = min(batches * self._hyperparameters.batch_size, len(self._train))
        means = {"train_loss": self._loss_sum / seen}
        if self._problem.class_names:
            means["train_accuracy"] = self._correct / seen
        return means

    def _validate(self, validation: Examples) -> dict[str, float]:
        outputs = outputs_of(self._evaluated, validation, self._plan)
        with torch.inference_mode():
            loss = float(self._objective.loss(outputs, validation.targets))
            hits = self._objective.hits(outputs, validation.targets)
        figures = {"validation_loss": loss}
        if hits is not None:
            figures["validation_accuracy"] = int(hits) / len(validation)
        return figures

    def _watch(self, loss: float) -> None:
        """Takes note of an epoch's loss, for early stopping and the plateau schedule."""
        epoch, watched = len(self._epoch_seconds), self._watched
        if loss < watched.best_loss:
            self._watched = replace(watched, best_loss=loss, best_epoch=epoch, decayed=epoch)
            if self._hyperparameters.early_stopping:
                state = self._evaluated.state_dict()
                self._best = {name: value.detach().clone() for name, value in state.items()}
        elif (
            self._hyperparameters.schedule == "plateau"
            and epoch - watched.decayed >= self._hyperparameters.decay_epochs
        ):
            self._watched = replace(watched, decays=watched.decays + 1, decayed=epoch)

    def _out_of_patience(self) -> bool:
        patience = self._hyperparameters.early_stopping
        waited = len(self._epoch_seconds) - self._watched.best_epoch
        return bool(patience) and waited >= patience

    def _settle(self) -> None:
        """Leaves in the network what is evaluated and exported."""
        if self._best is not None:
            log.info(
                "kept the weights of epoch %d, validation loss %.4f",
                self._watched.best_epoch,
                self._watched.best_loss,
            )
            self._network.load_state_dict(self._best)
        elif self._average is not None:
            self._network.load_state_dict(self._average.module.state_dict())

    @property
    def _evaluated(self) -> nn.Module:
        """The average of the weights where one is kept."""
        return self._network if self._average is None else self._average.module

    def _moment(self, epoch: int) -> Moment:
        return Moment(
            self._step,
            epoch + 1,
            self._hyperparameters.epochs,
            self._step / self._steps,
            {**self._means(), "learning_rate": self._rate()},
        )

    def _test(self) -> Mapping[str, float]:
        test = self._problem.test
        predicted = predict(self._evaluated, test, self._objective, self._plan)
        return self._objective.glance(test.targets.numpy(), predicted)

    def _checkpoint_due(self, now: float) -> bool:
        due = now - self._saved >= self._checkpoint_seconds
        return due and self._checkpoint_path is not None

    def _save(self) -> None:
        """Replaces the checkpoint, but never by one that cannot be gone on from."""
        # A step can spoil the weights after a loss that was still a number.
        weights = self._network.state_dict().values()
        if not all(bool(value.isfinite().all()) for value in weights):
            raise self._not_finite()
        self._saved = time.perf_counter()
        if self._checkpoint_path is None:
            return
        checkpoints.save(
            self._checkpoint_path,
            Checkpoint(
                step=self._step,
                plan=replace(self._plan, threads=self._threads.threads),
                model=self._network.state_dict(),
                optimizer=self._learner.state(),
                epoch_seconds=self._epoch_seconds,
                partial_seconds=self._partial_seconds,
                loss_sum=self._loss_sum,
                correct=self._correct,
                watched=self._watched,
                average=None if self._average is None else self._average.state_dict(),
                best=self._best,
            ),
        )


def outputs_of(network: nn.Module, examples: Examples, plan: Plan, *, rows: int = 1000) -> Tensor:
    """The network's outputs ``[N, ...]`` for all ``examples``, ``rows`` at a time, on the CPU; the
    network is on the plan's device."""
    network.eval()
    parts = []
    with torch.inference_mode():
        for begin in range(0, len(examples), rows):
            inputs = examples.inputs(slice(begin, begin + rows))
            parts.append(network(*plan.arranged(inputs)).cpu())
    return torch.cat(parts)


def predict(
    network: nn.Module, examples: Examples, objective: Objective, plan: Plan
) -> npt.NDArray[np.float32]:
    """What would be served for all ``examples``: outputs after the activation, FP32."""
    with torch.inference_mode():
        predictions: npt.NDArray[np.float32] = objective.activation(
            outputs_of(network, examples, plan)
        ).numpy()
    return predictions


def _averaged(network: nn.Module, decay: float) -> AveragedModel | None:
    if not decay:
        return None
    average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]  # PyTorch's own is missing
    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)


def _mix(seed: int, number: int) -> int:
    """A generator's seed of its own for each epoch, and for each step, of each job."""
    return (seed * 1_000_003 + number) % (1 << 63)
