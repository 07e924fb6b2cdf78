"""A job that begins with a registered version: what its spec says of it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lepton_mesh.resources import ID_PATTERN
from lepton_training.recipes.hyperparameters import Fault
from lepton_training.spec_fields import DATASET_VERSION

WEIGHTS_FILE = "weights.pt"
PAPERS_FILE = "training.json"
PREPROCESSING_FILE = "preprocessing.onnx"
"""Files of a version that a later job begins with; the last only where rows are prepared."""

_VERSION = re.compile(rf"models/{ID_PATTERN}/(versions/[1-9][0-9]{{0,17}}|aliases/{ID_PATTERN})")


@dataclass(frozen=True, slots=True)
class Retain:
    """What the trained model must still know."""

    dataset: str = ""
    """Dataset version whose test split it is measured on; the older version's own when empty."""
    max_drop: float = 0.0
    """How much worse the figure may be: a difference of shares, such as accuracies, and a share
    of what it was of errors."""


@dataclass(frozen=True, slots=True)
class WarmStart:
    """What a job begins with."""

    model_version: str
    """``models/{model}/versions/{n}``, or ``.../aliases/{alias}`` before it is resolved."""
    partial: bool = False
    """Whether weights that do not fit begin anew, and so do classes."""
    retain: Retain | None = None


def parse_warm_start(values: Any, faults: list[Fault]) -> WarmStart | None:
    """The spec's ``warm_start``; None without one, or with faults."""
    if values is None:
        return None
    known = len(faults)
    fields = _fields(values, "spec.warm_start", ("model_version", "partial", "retain"), faults)
    version, partial = fields.get("model_version") or "", fields.get("partial") or False
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        faults.append(
            Fault(
                "spec.warm_start.model_version",
                f"{version!r} is not a version; expected models/<model>/versions/<n> or "
                "models/<model>/aliases/<alias>",
            )
        )
    if not isinstance(partial, bool):
        faults.append(Fault("spec.warm_start.partial", f"expected true or false, got {partial!r}"))
    retain = None
    if fields.get("retain") is not None:
        retain = _retain(fields["retain"], faults)
        if partial:
            faults.append(
                Fault(
                    "spec.warm_start.retain",
                    "cannot be given with partial: what begins anew knows nothing to keep",
                )
            )
    return None if len(faults) > known else WarmStart(version, bool(partial), retain)


def _retain(values: Any, faults: list[Fault]) -> Retain:
    path = "spec.warm_start.retain"
    fields = _fields(values, path, ("dataset", "max_drop"), faults)
    dataset, drop = fields.get("dataset") or "", fields.get("max_drop") or 0.0
    if not isinstance(dataset, str) or (dataset and not DATASET_VERSION.fullmatch(dataset)):
        faults.append(Fault(f"{path}.dataset", f"{dataset!r} is not a dataset version"))
    if isinstance(drop, bool) or not isinstance(drop, int | float) or not math.isfinite(drop):
        faults.append(Fault(f"{path}.max_drop", f"expected a number, got {drop!r}"))
    elif not 0 <= drop <= 1:
        faults.append(Fault(f"{path}.max_drop", f"{drop:g} is not between 0 and 1"))
    return Retain(str(dataset), float(drop) if isinstance(drop, int | float) else 0.0)


def _fields(
    values: Any, path: str, names: tuple[str, ...], faults: list[Fault]
) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        faults.append(Fault(path, f"expected a mapping, got {type(values).__name__}"))
        return {}
    faults += [
        Fault(f"{path}.{name}", f"unknown field; known: {', '.join(sorted(names))}")
        for name in values
        if name not in names
    ]
    return values
