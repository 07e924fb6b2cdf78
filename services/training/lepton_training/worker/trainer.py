"""The training loop: whole dataset in memory, one gather per batch, resumable at any step.

Every random number is a function of the seed and of the epoch, so a job that was
killed and resumed sees the batches that an unbroken one would have seen. With the
same number of threads throughout it ends with the same weights, to the bit; other
threads add up in another order.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lepton_mesh.errors import FailedPrecondition
from lepton_training.recipes.hyperparameters import SupervisedHyperparameters
from lepton_training.worker import checkpoint as checkpoints
from lepton_training.worker.checkpoint import Checkpoint
from lepton_training.worker.idx import ImageData
from lepton_training.worker.networks import scale
from lepton_training.worker.optimization import learning_rate_at, make_optimizer, take_step
from lepton_training.worker.tuning import Plan, ThreadTuner

_SHIFT_MIN_SIDE = 18
"""Moving a smaller image would push its content out."""


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
    """Trains one network on one dataset."""

    def __init__(
        self,
        network: nn.Module,
        data: ImageData,
        hyperparameters: SupervisedHyperparameters,
        *,
        seed: int,
        plan: Plan,
        cpus: int = 1,
        report: Callable[[Moment], None],
        checkpoint_path: Path | None = None,
        report_seconds: float = 0.5,
        checkpoint_seconds: float = 10.0,
    ) -> None:
        """The network is brought into the plan's memory format before the optimizer is built.

        Args:
            cpus: Cores that the job has; threads beyond the plan's are tried while it runs.
            report: Called in the training thread, so it should return quickly.
            checkpoint_path: Where to keep checkpoints, and what to resume from if it exists.
        """
        self._threads = ThreadTuner(plan.threads, cpus)
        # Gradients of a nearly trained network are full of denormal numbers, which are slow.
        torch.set_flush_denormal(True)
        self._plan = plan
        self._network = network.to(memory_format=plan.memory_format)  # type: ignore[call-overload]  # Module.to's stub lacks this form
        self._optimizer = make_optimizer(
            network, hyperparameters.learning_rate, hyperparameters.weight_decay
        )
        self._hyperparameters = hyperparameters
        self._seed = seed
        self._report = report
        self._checkpoint_path = checkpoint_path
        self._report_seconds = report_seconds
        self._checkpoint_seconds = checkpoint_seconds

        height, width = data.train.images.shape[1:]
        shift = getattr(hyperparameters, "shift", 0)
        self._shift = shift if min(height, width) >= _SHIFT_MIN_SIDE else 0
        margin = ((0, 0), (self._shift, self._shift), (self._shift, self._shift))
        self._size = (height, width)
        self._images = torch.from_numpy(np.pad(data.train.images, margin))
        self._labels = torch.from_numpy(data.train.labels.astype(np.int64))
        self._test = data.test
        self._steps_per_epoch = math.ceil(len(self._images) / hyperparameters.batch_size)
        self._steps = self._steps_per_epoch * hyperparameters.epochs

        self._step = 0
        self._epoch_seconds: tuple[float, ...] = ()
        self._partial_seconds = 0.0
        self._saved = time.perf_counter()
        self._loss_sum = 0.0
        self._correct = 0
        self._stopping = False

    def stop(self) -> None:
        """Makes :meth:`run` end after the step under way; for signal handlers."""
        self._stopping = True

    def resume(self, state: Checkpoint) -> None:
        """Goes on from ``state`` instead of from the start."""
        self._network.load_state_dict(state.model)
        self._optimizer.load_state_dict(state.optimizer)
        self._step = state.step
        self._epoch_seconds = state.epoch_seconds
        self._partial_seconds = state.partial_seconds
        self._loss_sum, self._correct = state.loss_sum, state.correct

    def run(self) -> tuple[float, ...]:
        """Trains to the end; returns the seconds of each epoch.

        Raises:
            LossNotFinite: The loss is NaN or infinite; the last good checkpoint is kept.
            Stopped: :meth:`stop` was called; the checkpoint is of this step.
        """
        while self._step < self._steps:
            epoch = self._step // self._steps_per_epoch
            self._train_epoch(epoch)
            last = epoch + 1 == self._hyperparameters.epochs
            # The final evaluation follows the last epoch at once.
            test = {} if last else {"test_accuracy": self._test_accuracy()}
            self._report(
                Moment(
                    self._step,
                    epoch + 1,
                    self._hyperparameters.epochs,
                    self._step / self._steps,
                    {**self._means(), **test},
                    epoch_end=True,
                    epoch_seconds=self._epoch_seconds[-1],
                )
            )
            self._loss_sum, self._correct = 0.0, 0
            if last or self._stopping or self._checkpoint_due(time.perf_counter()):
                self._save()
            if self._stopping:
                raise Stopped
        return self._epoch_seconds

    def _train_epoch(self, epoch: int) -> None:
        generator = torch.Generator().manual_seed(_mix(self._seed, epoch))
        order = torch.randperm(len(self._images), generator=generator)
        shifts = torch.randint(
            0, 2 * self._shift + 1, (self._steps_per_epoch, 2), generator=generator
        ).tolist()
        batch_size = self._hyperparameters.batch_size
        self._network.train()
        begin = reported = time.perf_counter()
        earlier = self._partial_seconds
        losses, hits = [], []
        for index in range(self._step % self._steps_per_epoch, self._steps_per_epoch):
            rows = order[index * batch_size : (index + 1) * batch_size]
            labels = self._labels[rows]
            started = time.perf_counter()
            loss, logits = self._learn(rows, labels, shifts[index])
            losses.append(loss * len(rows))
            hits.append((logits.argmax(1) == labels).sum())
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

    def _learn(self, rows: Tensor, labels: Tensor, shift: list[int]) -> tuple[Tensor, Tensor]:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate_at(self._step, self._steps, self._hyperparameters)
        down, right = shift
        height, width = self._size
        batch = self._images[rows][:, down : down + height, right : right + width]
        pixels = scale(batch).contiguous(memory_format=self._plan.memory_format)
        return take_step(self._network, self._optimizer, pixels, labels)

    def _gather(self, losses: list[Tensor], hits: list[Tensor]) -> None:
        """Adds up what the steps since the last call left, and checks it."""
        if losses:
            self._loss_sum += float(torch.stack(losses).sum())
            self._correct += int(torch.stack(hits).sum())
            losses.clear()
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
        """Mean loss and accuracy over the epoch so far."""
        batches = (self._step - 1) % self._steps_per_epoch + 1
        seen = min(batches * self._hyperparameters.batch_size, len(self._images))
        return {
            "train_loss": self._loss_sum / seen,
            "train_accuracy": self._correct / seen,
        }

    def _moment(self, epoch: int) -> Moment:
        rate = float(self._optimizer.param_groups[0]["lr"])
        return Moment(
            self._step,
            epoch + 1,
            self._hyperparameters.epochs,
            self._step / self._steps,
            {**self._means(), "learning_rate": rate},
        )

    def _test_accuracy(self) -> float:
        predicted = predict(self._network, self._test.images, self._plan).argmax(axis=1)
        return float((predicted == self._test.labels).mean())

    def _checkpoint_due(self, now: float) -> bool:
        due = now - self._saved >= self._checkpoint_seconds
        return due and self._checkpoint_path is not None

    def _save(self) -> None:
        """Replaces the checkpoint, but never by one that cannot be gone on from."""
        # A step can spoil the weights after a loss that was still a number.
        if not all(bool(value.isfinite().all()) for value in self._network.state_dict().values()):
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
                optimizer=self._optimizer.state_dict(),
                epoch_seconds=self._epoch_seconds,
                partial_seconds=self._partial_seconds,
                loss_sum=self._loss_sum,
                correct=self._correct,
            ),
        )


def predict(
    network: nn.Module, images: npt.NDArray[np.uint8], plan: Plan, *, rows: int = 1000
) -> npt.NDArray[np.float32]:
    """Class probabilities ``[N, classes]`` of raw images ``[N, H, W]``, ``rows`` at a time."""
    network.eval()
    parts = []
    with torch.inference_mode():
        for begin in range(0, len(images), rows):
            pixels = scale(torch.from_numpy(images[begin : begin + rows].copy()))
            pixels = pixels.contiguous(memory_format=plan.memory_format)
            parts.append(torch.softmax(network(pixels), dim=1).numpy())
    return np.concatenate(parts)


def _mix(seed: int, epoch: int) -> int:
    """A generator's seed of its own for each epoch of each job."""
    return (seed * 1_000_003 + epoch) % (1 << 63)
