"""What came of the examples: as plain data, and as a table."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lepton_local.examples.catalogue import Example

PASSED, AIM_MISSED, DISAGREES, FAILED, DATA_MISSING = (
    "passed",
    "aim missed",
    "disagrees",
    "failed",
    "data missing",
)
"""``disagrees``: what is served is not what was trained."""
_SAME = 1e-4
"""Beyond one test row, the relative difference that two ways to compute a figure may have."""


@dataclass(frozen=True, slots=True)
class Run:
    """One job of an example, and its model at the gateway."""

    seed: int
    model_version: str
    metrics: Mapping[str, float]
    """Of the job."""
    at_gateway: Mapping[str, float]
    """Measured again on the answers to the raw test rows."""
    rows: int
    """How many those are."""
    seconds: float
    """From the job's creation to the last answer."""
    seconds_per_epoch: float
    parity_max_abs_error: float

    def disagreements(self) -> list[str]:
        """Figures that are another at the gateway; more than one row's worth counts."""
        return [
            f"{name} is {figure:.6g} at the gateway and was {self.metrics[name]:.6g} in training"
            for name, figure in self.at_gateway.items()
            if abs(figure - self.metrics[name])
            > max(1 / self.rows, _SAME * abs(self.metrics[name])) + 1e-9
        ]


@dataclass(slots=True)
class Result:
    """What came of an example."""

    example: Example
    runs: list[Run] = field(default_factory=list)
    error: str = ""
    """Why it ended early."""
    missing: bool = False
    """Whether that is because its data is not there."""
    seconds: float = 0.0

    @property
    def metrics(self) -> dict[str, float]:
        """Each figure of the jobs; the mean over the seeds."""
        return _means([run.metrics for run in self.runs])

    @property
    def at_gateway(self) -> dict[str, float]:
        """The same of those measured again."""
        return _means([run.at_gateway for run in self.runs])

    @property
    def status(self) -> str:
        """One of the words at the top of this module."""
        if self.missing:
            return DATA_MISSING
        if self.error or not self.runs:
            return FAILED
        if any(run.disagreements() for run in self.runs):
            return DISAGREES
        if not all(aim.reached(self.metrics) for aim in self.example.aims):
            return AIM_MISSED
        return PASSED

    def remarks(self) -> list[str]:
        """What there is to say of it beside its figures."""
        remarks = [self.error] if self.error else []
        return remarks + [
            f"seed {run.seed}: {text}" for run in self.runs for text in run.disagreements()
        ]

    def plain(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "status": self.status,
            "remarks": self.remarks(),
            "metrics": self.metrics,
            "at_gateway": self.at_gateway,
            "aims": [
                {"metric": aim.metric, "aim": str(aim), "reached": aim.reached(self.metrics)}
                for aim in self.example.aims
            ],
            "seconds": round(self.seconds, 1),
            "seconds_per_epoch": self._mean("seconds_per_epoch"),
            "parity_max_abs_error": self._largest_parity(),
            "runs": [asdict(run) for run in self.runs],
        }

    def lines(self) -> Iterator[tuple[str, ...]]:
        """Its rows of the table: one for each figure that was measured again."""
        ends = ("", f"{self.seconds:.0f}", "")
        if self.runs:
            epoch, parity = self._mean("seconds_per_epoch"), self._largest_parity()
            ends = (f"{epoch:.2f}", f"{self.seconds:.0f}", f"{parity:.1e}")
        first = (self.example.name, self.status)
        for name, figure in self.at_gateway.items():
            aims = ", ".join(str(aim) for aim in self.example.aims if aim.metric == name)
            yield (*first, name, f"{self.metrics[name]:.4f}", f"{figure:.4f}", aims, *ends)
            first, ends = ("", ""), ("", "", "")
        if not self.runs:
            yield (*first, "", "", "", "", *ends)

    def _mean(self, name: str) -> float | None:
        values = [getattr(run, name) for run in self.runs]
        return statistics.fmean(values) if values else None

    def _largest_parity(self) -> float | None:
        return max((run.parity_max_abs_error for run in self.runs), default=None)


_HEADS = (
    "example",
    "result",
    "figure",
    "training",
    "gateway",
    "aim",
    "s/epoch",
    "seconds",
    "parity",
)
_NUMBERS = {"training", "gateway", "s/epoch", "seconds", "parity"}


def table(results: Sequence[Result]) -> str:
    """The results for people, remarks below."""
    rows = [_HEADS, *(line for result in results for line in result.lines())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    lines = [
        "  ".join(
            f"{cell:>{width}}" if head in _NUMBERS else f"{cell:<{width}}"
            for cell, width, head in zip(row, widths, _HEADS, strict=True)
        ).rstrip()
        for row in rows
    ]
    remarks = [
        f"{result.example.name}: {remark}" for result in results for remark in result.remarks()
    ]
    return "\n".join([*lines, *([""] if remarks else []), *remarks])


def _means(several: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each figure that all have."""
    if not several:
        return {}
    return {
        name: statistics.fmean(each[name] for each in several)
        for name in several[0]
        if all(name in each for each in several)
    }
