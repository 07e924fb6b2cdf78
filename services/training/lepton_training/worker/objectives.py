"""What a network is to do: the loss of its outputs, and what they mean once it is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own convention
from torch import Tensor

from lepton.evaluation.predictions import Kind
from lepton_mesh.texts import counted
from lepton_training.recipes.fitting import SupervisedHyperparameters
from lepton_training.recipes.hyperparameters import Fault
from lepton_training.spec import JobSpecInvalid
from lepton_training.worker.evaluation import (
    Evaluation,
    Judgement,
    evaluate_classes,
    evaluate_numbers,
    evaluate_samples,
    evaluate_scores,
    roc_auc,
)

Array = npt.NDArray[Any]
Judge = Callable[[npt.NDArray[np.uint8]], Judgement]
"""Of grey images ``[N, H, W]``."""


@dataclass(frozen=True, slots=True)
class Activation:
    """From a network's outputs to what is served; part of the exported graph."""

    kind: Literal["softmax", "sigmoid", "linear"]
    """``sigmoid``: of each class by itself, then divided by their sum."""
    scale: float = 1.0
    shift: float = 0.0
    """Of ``linear``: outputs are multiplied by ``scale``, and ``shift`` is added."""

    def __call__(self, outputs: Tensor) -> Tensor:
        if self.kind == "softmax":
            return torch.softmax(outputs, dim=1)
        if self.kind == "sigmoid":
            each = torch.sigmoid(outputs)
            return each / each.sum(dim=1, keepdim=True)
        if (self.scale, self.shift) == (1.0, 0.0):
            return outputs
        return outputs * self.scale + self.shift


class Objective(Protocol):
    """A network's task; batches are in dimension 0 of all tensors."""

    @property
    def kind(self) -> Kind | None:
        """What predictions are; None where nothing is predicted."""

    @property
    def activation(self) -> Activation: ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean over the batch, to be brought down."""

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """How many rows of the batch are right; None where nothing is right or wrong."""

    def glance(self, targets: Array, predictions: Array) -> Mapping[str, float]:
        """The one figure of the test split that is reported after every epoch, quickly."""

    def evaluate(self, targets: Array, predictions: Array) -> Evaluation:
        """All figures of ``predictions``, which are outputs after the activation."""


class Classification:
    """One of several classes: outputs are logits ``[N, classes]``; targets INT64 ``[N]``, or of
    mixed examples the share of each class, FP32 ``[N, classes]``."""

    kind: Kind | None = "classification"

    def __init__(self, hyperparameters: SupervisedHyperparameters, weights: Tensor | None) -> None:
        """``weights``: FP32 ``[classes]``, what an example of each class counts."""
        self._loss = hyperparameters.loss
        self._smoothing = hyperparameters.label_smoothing
        self._weights = weights

    @property
    def activation(self) -> Activation:
        return Activation("sigmoid" if self._loss == "bce" else "softmax")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        weights = None if self._weights is None else self._weights.to(outputs.device)
        if self._loss == "bce":
            classes = outputs.shape[1]
            whole = F.one_hot(targets, classes) if targets.dim() == 1 else targets
            wanted = whole.to(outputs.dtype)
            wanted = wanted * (1 - self._smoothing) + self._smoothing / classes
            each = F.binary_cross_entropy_with_logits(outputs, wanted, reduction="none").mean(1)
            if weights is not None:
                # What an example of its class counts; a weight for each output would weigh the
                # rare class up where it is not, too.
                each = each * (whole * weights).sum(1)
            return each.mean()
        return F.cross_entropy(outputs, targets, weight=weights, label_smoothing=self._smoothing)

    def hits(self, outputs: Tensor, targets: Tensor) -> Tensor:
        classes = targets if targets.dim() == 1 else targets.argmax(1)
        return (outputs.argmax(1) == classes).sum()

    def glance(self, targets: Array, predictions: Array) -> Mapping[str, float]:
        return {"test_accuracy": float((predictions.argmax(axis=1) == targets).mean())}

    def evaluate(self, targets: Array, predictions: Array) -> Evaluation:
        return evaluate_classes(targets, predictions)


def class_weights(
    hyperparameters: SupervisedHyperparameters, labels: Array, classes: int
) -> Tensor | None:
    """FP32 ``[classes]``; None where all count alike.

    Balanced weights give each class the same sum over ``labels`` ``[N]``.

    Raises:
        JobSpecInvalid: Weights are given, and not one for each class.
    """
    if hyperparameters.balanced:
        counts = np.bincount(labels.astype(np.int64), minlength=classes)
        return torch.from_numpy(
            (len(labels) / (classes * np.maximum(counts, 1))).astype(np.float32)
        )
    if hyperparameters.class_weights:
        if len(hyperparameters.class_weights) != classes:
            raise JobSpecInvalid(
                [
                    Fault(
                        "spec.hyperparameters.class_weights",
                        f"has {counted(len(hyperparameters.class_weights), 'weight')}, and the "
                        f"data has {counted(classes, 'class', 'classes')}; give one for each",
                    )
                ]
            )
        return torch.tensor(hyperparameters.class_weights, dtype=torch.float32)
    return None


class Regression:
    """Numbers: outputs are standardized FP32 ``[N, outputs]``, targets are in their own unit."""

    kind: Kind | None = "regression"

    def __init__(
        self,
        hyperparameters: Any,
        *,
        mean: float,
        deviation: float,
        training_mean: float | None = None,
        baselines: Mapping[str, Array] | None = None,
    ) -> None:
        """
        Args:
            mean: What targets are standardized by; so is ``deviation``.
            training_mean: Of this training's targets; ``mean`` where those are not of other data.
            baselines: Predictions for the test split of what needs no training, by name.
        """
        self._loss: str = hyperparameters.loss
        self._delta: float = hyperparameters.huber_delta
        self._mean, self._deviation = mean, deviation
        self._training_mean = mean if training_mean is None else training_mean
        self._baselines = dict(baselines or {})

    @classmethod
    def fitted(
        cls,
        hyperparameters: Any,
        targets: Array,
        baselines: Mapping[str, Array] | None = None,
    ) -> Regression:
        """Standardizes by the mean and deviation of the training ``targets``."""
        return cls(
            hyperparameters,
            mean=float(targets.mean()),
            deviation=float(targets.std()) or 1.0,
            baselines=baselines,
        )

    @property
    def activation(self) -> Activation:
        return Activation("linear", self._deviation, self._mean)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        wanted = (targets - self._mean) / self._deviation
        if self._loss == "mae":
            return F.l1_loss(outputs, wanted)
        if self._loss == "huber":
            return F.huber_loss(outputs, wanted, delta=self._delta)
        return F.mse_loss(outputs, wanted)

    def hits(self, outputs: Tensor, targets: Tensor) -> None:
        return None

    def glance(self, targets: Array, predictions: Array) -> Mapping[str, float]:
        return {"test_rmse": float(np.sqrt(((predictions - targets) ** 2).mean()))}

    def evaluate(self, targets: Array, predictions: Array) -> Evaluation:
        mean = np.full_like(targets, self._training_mean)
        return evaluate_numbers(targets, predictions, {"mean": mean, **self._baselines})


class AnomalyScores:
    """Outputs are scores FP32 ``[N, 1]``, low in training; targets are 1 for anomalies."""

    kind: Kind | None = "anomaly"

    @property
    def activation(self) -> Activation:
        return Activation("linear")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.mean()

    def hits(self, outputs: Tensor, targets: Tensor) -> None:
        return None

    def glance(self, targets: Array, predictions: Array) -> Mapping[str, float]:
        return {"roc_auc": roc_auc(targets.astype(bool), predictions[:, 0]) or 0.0}

    def evaluate(self, targets: Array, predictions: Array) -> Evaluation:
        return evaluate_scores(targets, predictions[:, 0])


class Generation:
    """Outputs are grey images FP32 ``[N, H, W]``, 0 to 255, made of noise; there are no targets."""

    kind: Kind | None = None

    def __init__(self, judge: Judge | None) -> None:
        self._judge = judge

    @property
    def activation(self) -> Activation:
        return Activation("linear")

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError("a generator has no loss without a discriminator")

    def hits(self, outputs: Tensor, targets: Tensor) -> None:
        return None

    def glance(self, targets: Array, predictions: Array) -> Mapping[str, float]:
        return {}

    def evaluate(self, targets: Array, predictions: Array) -> Evaluation:
        generated = np.clip(np.rint(predictions), 0, 255).astype(np.uint8)
        judged = None if self._judge is None else self._judge(generated)
        return evaluate_samples(generated, judged)
