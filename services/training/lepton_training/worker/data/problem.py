"""What a dataset version is to a job once it is read: examples, a task, and its papers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from lepton_training.worker.data.examples import Examples
from lepton_training.worker.objectives import Objective
from lepton_training.worker.platform import TensorSpec
from lepton_training.worker.slices import Slice

PARITY_ROWS = 256
"""Raw rows of the test split that the exported model is compared on."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A dataset version, read and prepared for one recipe."""

    about: str
    """Such as ``60000 training and 10000 test images of 28x28, 10 classes``."""
    shape: Any
    """What the network is built from; of the recipe's kind of data."""
    train: Examples
    validation: Examples | None
    test: Examples
    objective: Objective
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    """Of the model that is served: raw rows in, one output."""
    class_names: tuple[str, ...]
    raw_rows: Mapping[str, npt.NDArray[np.generic]]
    """Raw rows of the test split by input name, for the comparison of the exported model."""
    more_rows: Sequence[Mapping[str, npt.NDArray[np.generic]]] = ()
    """As ``raw_rows``, of other sizes, where an endpoint takes rows of any."""
    preprocessing: bytes | None = None
    """ONNX from raw rows to the network's inputs; None where it takes raw rows."""
    after_epoch: Callable[[nn.Module, int], Mapping[str, float]] | None = None
    """Called with the network and the epoch, from 1; what it returns is reported."""
    attachments: tuple[str, ...] = ()
    """Files in the job's directory that are kept with the model."""
    report: Mapping[str, Any] = field(default_factory=dict)
    """What was read, left out and fitted, as plain data: kept with the model."""
    test_digest: str = ""
    """Of the rows of the test split and what is true of them; empty where there are none."""
    slices: tuple[Slice, ...] = ()
    """Parts of the test split that are measured by themselves."""
    columns: tuple[tuple[str, ...], ...] = ()
    """For each of the network's inputs, the raw column that each place of its last dimension comes
    from; empty where inputs are no columns."""
    tokens: tuple[str, ...] = ()
    """Of texts, those that codes from 2 on stand for."""
    raw_test: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """All raw rows of the test split by column, of tables: what explanations show."""
    baseline: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    """A row that stands for nothing in particular, by input name, without the batch: what rows are
    compared with whose predictions are explained. Empty of texts and images, for which an empty
    text and black stand."""
