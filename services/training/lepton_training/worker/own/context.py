"""What a user's training function is given: data, settings, ways to tell and to keep."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lepton_training.job_files import CHECKPOINT_FILE
from lepton_training.worker.data.examples import Examples
from lepton_training.worker.own.errors import CodeNoModel, MetricsInvalid
from lepton_training.worker.own.messages import Messages


class Split:
    """One split of the dataset, in memory."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    @property
    def targets(self) -> Tensor:
        """``[N, ...]``: INT64 classes, or FP32 numbers in their own unit."""
        return self._examples.targets

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """All rows, as a module of this kind of data takes them."""
        return self._examples.inputs(slice(None))

    def batch(self, rows: Tensor | slice) -> tuple[tuple[Tensor, ...], Tensor]:
        """The inputs and the targets of those rows."""
        return self._examples.inputs(rows), self._examples.targets[rows]


@dataclass(frozen=True)
class Dataset:
    """The dataset version that the job trains on."""

    path: Path
    """Folder with its files."""
    kind: str = ""
    """Kind of data; empty where the code reads the files itself, and then nothing below is set."""
    shape: Any = None
    """Sizes of the kind, such as ``height``, ``width`` and ``classes`` of images."""
    class_names: tuple[str, ...] = ()
    train: Split | None = None
    test: Split | None = None


@dataclass(frozen=True)
class Finished:
    """What the code gave."""

    module: nn.Module
    example: tuple[Tensor, ...]
    metrics: Mapping[str, float]


class Context:
    """The argument of a user's ``train(context)``."""

    def __init__(
        self,
        *,
        dataset: Dataset,
        hyperparameters: Mapping[str, Any],
        seed: int,
        cpus: int,
        directory: Path,
        messages: Messages,
    ) -> None:
        self.dataset = dataset
        self.hyperparameters = hyperparameters
        """The spec's, as they were written."""
        self.seed = seed
        """Of PyTorch, NumPy and random, which are seeded with it already."""
        self.cpus = cpus
        """Cores that the job has; PyTorch uses as many threads already."""
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        """Where to train."""
        self.directory = directory
        """Where the code may write; gone when the job has ended."""
        self.finished: Finished | None = None
        self._messages = messages

    def report(
        self,
        step: int = 0,
        epoch: int = 0,
        metrics: Mapping[str, float] | None = None,
        *,
        epochs: int = 0,
        progress: float | None = None,
        epoch_end: bool = False,
    ) -> None:
        """Tells how far the training is; who watches the job sees it, four times a second at most.

        Args:
            step: Optimizer steps so far.
            epoch: From 1; 0 where there are none.
            metrics: Finite numbers by name, such as ``train_loss``.
            epochs: How many there will be.
            progress: 0 to 1, of the training; by epochs where not given.
            epoch_end: Whether an epoch ends here.

        Raises:
            MetricsInvalid: A metric is no finite number. The job fails, whoever catches it.
        """
        numbers = {str(name): float(value) for name, value in (metrics or {}).items()}
        if progress is None:
            progress = epoch / epochs if epochs else 0.0
        self._messages.send(
            "measurement",
            step=int(step),
            epoch=int(epoch),
            epochs=int(epochs),
            progress=float(progress),
            metrics=numbers,
            epoch_end=bool(epoch_end),
        )
        for name, value in numbers.items():
            if not math.isfinite(value):
                raise MetricsInvalid(f"the metric '{name}' is {value}; report finite numbers")

    def save_checkpoint(self, state: Any) -> None:
        """Keeps ``state`` (tensors, numbers, texts, in lists and dicts) to go on from.

        It replaces the one before, in one step; it outlives a restart of the job, and is kept when
        the job fails.
        """
        path = self.directory / CHECKPOINT_FILE
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)

    def load_checkpoint(self) -> Any:
        """What was saved last, by this attempt of the job or an earlier one; None without."""
        path = self.directory / CHECKPOINT_FILE
        return torch.load(path, weights_only=True) if path.exists() else None

    def finish(
        self,
        module: nn.Module,
        example_input: Any = None,
        *,
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Gives the trained module: what is exported, compared, evaluated and registered.

        Args:
            example_input: Rows that the module takes, a tensor or array or several, batches in
                dimension 0. Needed where the job has no kind of data; else the dataset has them.
            metrics: Figures of the module, where the job has no kind of data to measure them by.

        Raises:
            CodeNoModel: It is no ``torch.nn.Module``.
        """
        if not isinstance(module, nn.Module):
            raise CodeNoModel(
                f"the code gave {_name(module)}; give a torch.nn.Module, by context.finish or "
                "return"
            )
        self.finished = Finished(module, _tensors(example_input), dict(metrics or {}))


def _tensors(example: Any) -> tuple[Tensor, ...]:
    if example is None:
        return ()
    several = isinstance(example, Sequence) and not isinstance(example, Tensor)
    return tuple(torch.as_tensor(one) for one in (example if several else (example,)))


def _name(value: object) -> str:
    return "nothing" if value is None else f"an object of type {type(value).__name__}"
