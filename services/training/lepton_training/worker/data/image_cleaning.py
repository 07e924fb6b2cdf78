"""Images of IDX files that cannot be used."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lepton_training.worker.data.cleaning import BLANK, UNKNOWN, LeftOut
from lepton_training.worker.data.idx import LabelledImages


def cleaned(
    split: LabelledImages,
    file: str,
    left_out: LeftOut,
    *,
    keep_blank: bool = False,
    known: npt.NDArray[np.integer[Any]] | None = None,
) -> LabelledImages:
    """Without images of one color throughout, and with ``known`` without those of other labels.

    Args:
        file: How the names of the split's files begin.
        left_out: Takes what is not kept.
    """
    reasons: dict[str, npt.NDArray[np.bool_]] = {}
    if known is not None:
        reasons[UNKNOWN] = ~np.isin(split.labels, known)
    if not keep_blank:
        flat = split.images.reshape(len(split.images), -1)
        reasons[BLANK] = flat.min(axis=1) == flat.max(axis=1)
    kept = np.ones(len(split.labels), bool)
    for reason, wrong in reasons.items():
        lost = np.flatnonzero(wrong & kept)
        if len(lost):
            left_out.add(reason, f"{file}-images-idx3-ubyte.gz image {lost[0] + 1}", len(lost))
            kept &= ~wrong
    if kept.all():
        return split
    return LabelledImages(split.images[kept], split.labels[kept])
