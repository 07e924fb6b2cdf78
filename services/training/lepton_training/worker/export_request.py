"""What a job's process asks of its export process; free of what exporting needs to load."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What the export process is told; paths are relative to the request's directory."""

    recipe: str
    hyperparameters: dict[str, Any]
    shape: dict[str, Any]
    """Fields of the shape that the recipe's kind of data has."""
    activation: dict[str, Any]
    """Fields of an :class:`Activation`."""
    output: str
    """Name of the output."""
    weights: str
    """A state_dict, as ``torch.save`` writes it."""
    rows: str
    """Raw test rows by input name, in the order of the signature; ``.npz``."""
    preprocessing: str = ""
    """ONNX from raw rows to the network's inputs; without one the network takes raw rows."""
    more_rows: list[str] = field(default_factory=list)
    """Further raw test rows, of other sizes; ``.npz``."""
