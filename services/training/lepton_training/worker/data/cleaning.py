"""Rows that cannot be used: left out of their split, counted by reason, and bounded.

A row is whatever a dataset is read as: a line of a table, a step of a series, a text, an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lepton_mesh.errors import InvalidArgument

BLANK = "one color throughout"
UNKNOWN = "not a class of the training split"
"""Reasons that several kinds of data have."""
_TOLD = 3
"""Reasons that an error names: the commonest."""


class TooManyInvalid(InvalidArgument):
    """More rows of a split had to be left out than ``data.max_invalid_fraction`` allows."""

    reason = "TRAINING_ROWS_INVALID"


@dataclass
class _Reason:
    count: int
    example: str
    """Where the first one is, such as ``train.csv line 17``."""


class LeftOut:
    """The rows of one split that are not used."""

    def __init__(self) -> None:
        self._reasons: dict[str, _Reason] = {}

    def add(self, reason: str, example: str, count: int = 1) -> None:
        """Counts rows that are left out for ``reason``; ``example`` is where the first one is."""
        found = self._reasons.setdefault(reason, _Reason(0, example))
        found.count += count

    def include(self, other: LeftOut) -> None:
        """Counts what ``other`` has too."""
        for reason, found in other._reasons.items():
            self.add(reason, found.example, found.count)

    @property
    def count(self) -> int:
        """How many rows."""
        return sum(found.count for found in self._reasons.values())

    def reasons(self) -> list[dict[str, Any]]:
        """Plain data, the commonest reason first."""
        worst = sorted(self._reasons.items(), key=lambda item: (-item[1].count, item[0]))
        return [
            {"reason": reason, "count": found.count, "example": found.example}
            for reason, found in worst
        ]

    def told(self) -> str:
        """Such as ``3 (y: missing, such as t.csv line 4)``, the commonest first."""
        return _listed(self.reasons())


def settle(
    splits: Mapping[str, tuple[int, LeftOut]], *, max_invalid_fraction: float
) -> dict[str, Any]:
    """What was read, kept and left out of each split, as plain data.

    Args:
        splits: By name, the rows that were kept and those that were not.

    Raises:
        TooManyInvalid: One lost more than that share of its rows; names the worst reasons.
    """
    for name, (kept, left_out) in splits.items():
        read = kept + left_out.count
        if left_out.count > max_invalid_fraction * read:
            raise TooManyInvalid(
                f"{left_out.count} of the {read} rows of the {name} split cannot be used, more "
                f"than data.max_invalid_fraction ({max_invalid_fraction:g}) allows: "
                f"{_listed(left_out.reasons()[:_TOLD])}; correct them, or raise the fraction",
                split=name,
            )
    return {
        "max_invalid_fraction": max_invalid_fraction,
        "splits": {
            name: {
                "read": kept + left_out.count,
                "kept": kept,
                "left_out": left_out.count,
                "reasons": left_out.reasons(),
            }
            for name, (kept, left_out) in splits.items()
        },
    }


def lines(report: Mapping[str, Any]) -> Iterator[str]:
    """A line a split for the log; ``report`` may have what :func:`settle` returned, as
    ``cleaning``."""
    for name, split in report.get("cleaning", {"splits": {}})["splits"].items():
        told = f"{name} split: {split['read']} rows read, {split['left_out']} left out"
        yield f"{told}: {_listed(split['reasons'])}" if split["reasons"] else told


def _listed(reasons: list[dict[str, Any]]) -> str:
    return ", ".join(
        f"{found['count']} ({found['reason']}, such as {found['example']})" for found in reasons
    )
