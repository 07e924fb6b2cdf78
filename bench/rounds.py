"""Loads several targets in turn, round after round, and keeps the medians."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.load import Load, LoadError


class Loadable(Protocol):
    """What can be measured."""

    @property
    def server(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def protocol(self) -> str: ...

    def load(self, in_flight: int, seconds: float) -> Load:
        """Raises LoadError."""
        ...


@dataclass(slots=True)
class Row:
    """One figure: a target at one number of requests in flight."""

    server: str
    model: str
    protocol: str
    in_flight: int
    beside: str = ""
    """The peer that it was measured in turn with; "" for our own block."""
    loads: list[Load] = field(default_factory=list)
    error: str = ""

    def median(self, name: str) -> float:
        """Of a figure over the rounds."""
        return float(statistics.median(getattr(load, name) for load in self.loads))

    def plain(self) -> dict[str, Any]:
        """The row as it is written."""
        row: dict[str, Any] = {
            "server": self.server,
            "model": self.model,
            "protocol": self.protocol,
            "in_flight": self.in_flight,
        }
        if self.beside:
            row["beside"] = self.beside
        if self.error:
            return row | {"error": self.error}
        for name, digits in (("requests_per_second", 1), ("p50_ms", 3), ("p99_ms", 3)):
            row[name] = round(self.median(name), digits)
        return row | {"rounds": [round(load.requests_per_second, 1) for load in self.loads]}


def measure(
    targets: Sequence[Loadable],
    in_flight: Sequence[int],
    seconds: Callable[[str, int], float],
    rounds: Callable[[str], int],
    beside: str = "",
) -> list[Row]:
    """Loads each target at each number in flight; all have their turn in every round.

    Args:
        targets: Servers that can idle beside each other.
        in_flight: How many requests at a time.
        seconds: How long a model is loaded at a number in flight.
        rounds: How many rounds a model gets.
        beside: See :class:`Row`.

    A target that fails has the error in its row, and is not loaded again at that number.
    """
    rows = []
    for number in in_flight:
        turn = [Row(t.server, t.model, t.protocol, number, beside) for t in targets]
        pairs = list(zip(targets, turn, strict=True))
        for count in range(max((rounds(target.model) for target in targets), default=0)):
            for target, row in pairs[:: -1 if count % 2 else 1]:
                if row.error or count >= rounds(target.model):
                    continue
                try:
                    row.loads.append(target.load(number, seconds(target.model, number)))
                except LoadError as error:
                    row.error = str(error).strip()[:500]
                tell(row)
        rows += turn
    return rows


def tell(row: Row) -> None:
    """Says how far it is, to whom waits."""
    head = f"  {row.server:<16} {row.model:<9} {row.protocol:<18} {row.in_flight:>4} in flight"
    if row.error:
        print(f"{head}  failed: {row.error.splitlines()[0]}", file=sys.stderr, flush=True)
        return
    load = row.loads[-1]
    print(
        f"{head}  {load.requests_per_second:>9,.1f} req/s  p50 {load.p50_ms:.2f} ms  "
        f"p99 {load.p99_ms:.2f} ms",
        file=sys.stderr,
        flush=True,
    )
