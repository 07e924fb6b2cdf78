"""A model that counts its batches, for tests of the batcher."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from lepton_inference.batcher import (
    Batcher,
)
from lepton_inference.settings import BatchingSettings
from lepton_inference.statistics import Statistics

TAILS = ((2,),)


class Doubling:
    """Doubles FP32 rows of two; counts batches; may be held, and fails on a row of -1.

    Args:
        error: What it fails with.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error or RuntimeError("secret detail")
        self.batches: list[int] = []
        self.threads: set[int] = set()
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def join(self, columns: Sequence[Sequence[Any]], rows: int, tails: Any) -> dict[str, Any]:
        raw = b"".join(columns[0])
        return {"x": np.frombuffer(raw, np.float32).reshape(rows, *tails[0])}

    def run(self, feeds: dict[str, Any]) -> list[Any]:
        self.begun.set()
        assert self.go_on.wait(10)
        self.batches.append(len(feeds["x"]))
        self.threads.add(threading.get_ident())
        if (feeds["x"] == -1).any():
            raise self.error
        return [feeds["x"] * 2]


def row(value: float, rows: int = 1) -> tuple[bytes]:
    return (np.full((rows, 2), value, np.float32).tobytes(),)


def make(
    runner: Doubling, *, inline: bool = True, batched: bool = True, **settings: Any
) -> Batcher:
    return Batcher(
        runner,
        BatchingSettings(**settings),
        batched=batched,
        inline_rows=1 << 20 if inline else 0,
        statistics=Statistics(),
    )


def value_of(outcome: Any) -> float:
    batch, first = outcome
    return float(batch.arrays[0][first, 0])
