"""What an earlier model learned of its data before its weights: taken along by a job that begins
with those, so that codes, scales and classes mean the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lepton_mesh.errors import FailedPrecondition
from lepton_mesh.texts import counted


class WarmStartMismatch(FailedPrecondition):
    """The version whose weights a job is to begin with does not go with its data or network."""

    reason = "WARM_START_MISMATCH"


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was fitted for ``version``."""

    version: str
    shape: Mapping[str, Any]
    """Fields of the shape that its recipe's kind of data has."""
    class_names: tuple[str, ...]
    """In order; empty where there are none, or where the job has classes of its own."""
    mean: float = 0.0
    deviation: float = 1.0
    """Of what regression predicts."""
    preprocessing: bytes | None = None
    """ONNX from raw rows to the network's inputs."""
    columns: tuple[tuple[str, ...], ...] = ()
    """As :attr:`Problem.columns`."""

    def require_known(self, classes: Iterable[str]) -> None:
        """Raises WarmStartMismatch for classes that the version does not have."""
        unknown = sorted(set(classes) - set(self.class_names))
        if unknown:
            shown = ", ".join(f"'{name}'" for name in unknown[:10])
            raise WarmStartMismatch(
                f"{self.version} does not know {counted(len(unknown), 'class', 'classes')} of the "
                f"dataset: {shown}"
                f"{', …' if len(unknown) > 10 else ''}; leave their rows out, or set "
                "warm_start.partial to begin with new outputs"
            )

    def require_columns(self, wanted: Iterable[str], found: Iterable[str]) -> None:
        """Raises WarmStartMismatch unless the dataset has the columns of the version."""
        missing, more = set(wanted) - set(found), set(found) - set(wanted)
        if missing or more:
            told = [f"lacks {', '.join(sorted(missing)[:20])}"] if missing else []
            if more:
                listed = ", ".join(sorted(more)[:20])
                told.append(f"has also {listed} (data.drop leaves columns out)")
            raise WarmStartMismatch(
                f"the dataset has other columns than {self.version} was trained on: it "
                f"{' and '.join(told)}"
            )
