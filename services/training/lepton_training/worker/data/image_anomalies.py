"""Grey images of IDX files, some of whose labels are anomalies: not trained on, to be found."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from lepton_training.recipes.data import AnomalySettings, ImageShape
from lepton_training.spec import JobSpec
from lepton_training.worker.data import idx
from lepton_training.worker.data.cleaning import LeftOut, settle
from lepton_training.worker.data.fitted import Fitted
from lepton_training.worker.data.identity import digest_of_arrays
from lepton_training.worker.data.idx import DatasetInvalid, ImageData, LabelledImages
from lepton_training.worker.data.image_cleaning import cleaned
from lepton_training.worker.data.images import INPUT, ImageExamples, split_off
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.objectives import AnomalyScores
from lepton_training.worker.platform import TensorSpec

_PARITY_ROWS = 256


def load(directory: Path, spec: JobSpec, _fitted: Fitted | None = None) -> Problem:
    """The images in ``directory``; those of the labels in ``data.anomalies`` are anomalies.

    Raises:
        TooManyInvalid: More images have one color throughout than the spec allows.
        DatasetInvalid: The files are damaged, or nothing is normal, or nothing anomalous.
    """
    settings, hyperparameters = cast(AnomalySettings, spec.data), cast(Any, spec.hyperparameters)
    return prepare(idx.load(directory), settings, hyperparameters, seed=spec.seed)


def prepare(
    data: ImageData, settings: AnomalySettings, hyperparameters: Any, *, seed: int
) -> Problem:
    """The same of images that are read already."""
    left_out = LeftOut()
    # Of the test split nothing: a blank image may be what is to be found.
    whole = cleaned(data.train, "train", left_out)
    cleaning = settle(
        {"train": (len(whole.labels), left_out)},
        max_invalid_fraction=settings.max_invalid_fraction,
    )
    normal = ~np.isin(whole.labels, settings.anomalies)
    strange = np.isin(data.test.labels, settings.anomalies)
    if not normal.any():
        raise DatasetInvalid("data.anomalies has every label; leave one that is normal")
    if not strange.any() or strange.all():
        raise DatasetInvalid(
            f"the test split has {int(strange.sum())} images of the labels in data.anomalies, of "
            f"{len(strange)}; it needs both kinds. Labels are 0 to {data.classes - 1}"
        )
    height, width = data.train.images.shape[1:]
    left = LabelledImages(whole.images[normal], np.zeros(normal.sum(), np.uint8))
    train, validation = split_off(left, hyperparameters.validation, seed)
    return Problem(
        about=f"{len(train.labels)} normal training"
        + (f", {len(validation.labels)} validation" if validation else "")
        + f" and {len(strange)} test images of {height}x{width}, {int(strange.sum())} of them "
        "anomalies",
        shape=ImageShape(height, width, 1),
        train=ImageExamples(train),
        validation=ImageExamples(validation) if validation else None,
        test=ImageExamples(LabelledImages(data.test.images, strange.astype(np.uint8))),
        objective=AnomalyScores(),
        inputs=(
            TensorSpec(INPUT, "UINT8", (-1, height, width), "grey pixels as stored, 0 to 255"),
        ),
        outputs=(
            TensorSpec("score", "FP32", (-1, 1), "the higher, the stranger; see the threshold"),
        ),
        class_names=(),
        raw_rows={INPUT: data.test.images[:_PARITY_ROWS]},
        test_digest=digest_of_arrays(data.test.images, strange),
        report={"cleaning": cleaning},
    )
