"""Grey images, some of whose labels are anomalies: not trained on, to be found."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np

from lepton_training.recipes.data import AnomalySettings, ImageShape
from lepton_training.spec import JobSpec
from lepton_training.worker.data.fitted import Fitted
from lepton_training.worker.data.identity import digest_of_arrays
from lepton_training.worker.data.idx import DatasetInvalid, LabelledImages
from lepton_training.worker.data.image_sources import INPUT, Reading, labels_of, raw_rows, read
from lepton_training.worker.data.images import ImageExamples, split_off
from lepton_training.worker.data.problem import Problem
from lepton_training.worker.objectives import AnomalyScores
from lepton_training.worker.platform import TensorSpec


def load(directory: Path, spec: JobSpec, _fitted: Fitted | None = None) -> Problem:
    """The images in ``directory``; those of the labels in ``data.anomalies`` are anomalies.

    Raises:
        TooManyInvalid: More images cannot be used than the spec allows.
        DatasetInvalid: The files are damaged, or nothing is normal, or nothing anomalous.
        JobSpecInvalid: Settings have no effect on the files that there are.
    """
    settings, hyperparameters = cast(AnomalySettings, spec.data), cast(Any, spec.hyperparameters)
    # A blank image of the test split may be what is to be found, and so may a class that training
    # does not have.
    reading = Reading(keep_blank=("test",), open_classes=True)
    source = read(directory, settings, spec.seed, reading)
    data = source.data
    anomalies = labels_of(data, settings.anomalies, "data.anomalies")
    normal = ~np.isin(data.train.labels, anomalies)
    strange = np.isin(data.test.labels, anomalies)
    if not normal.any():
        raise DatasetInvalid("data.anomalies has every label; leave one that is normal")
    if not strange.any() or strange.all():
        raise DatasetInvalid(
            f"the test split has {int(strange.sum())} images of the labels in data.anomalies, of "
            f"{len(strange)}; it needs both kinds. Labels are {', '.join(data.class_names[:20])}"
        )
    height, width = data.train.images.shape[1:]
    left = LabelledImages(data.train.images[normal], np.zeros(normal.sum(), np.uint8))
    train, validation = split_off(left, hyperparameters.validation, spec.seed)
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
            TensorSpec(
                INPUT,
                "UINT8",
                (-1, -1, -1) if source.resizing else (-1, height, width),
                "grey pixels as stored, 0 to 255"
                + (", of images of any size" if source.resizing else ""),
            ),
        ),
        outputs=(
            TensorSpec("score", "FP32", (-1, 1), "the higher, the stranger; see the threshold"),
        ),
        class_names=(),
        preprocessing=source.resizing,
        **raw_rows(source),
        test_digest=digest_of_arrays(data.test.images, strange),
        report=source.report,
    )
