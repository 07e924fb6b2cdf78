"""What a job's events change in its record."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from lepton_training.events import WorkerEvent
from lepton_training.job import (
    EPOCHS_MAX,
    METRICS_MAX,
    Job,
    Measurement,
    Phase,
    StoredCheckpoint,
)

_ALONE = frozenset({"phase", "checkpoint"})
"""Kinds after which the record is written: each phase has an event of its own in the record, and
each checkpoint must have been in it, so that the one after it discards it."""


def absorb(job: Job, events: Sequence[WorkerEvent]) -> tuple[dict[str, Any], list[Measurement]]:
    """What the first of ``events``, none of which is final, change in the record of ``job``.

    Returns:
        The changes, with the place in the event file that they end at, and the measurements.
    """
    turn = next((i for i, one in enumerate(events) if one.kind in _ALONE), len(events))
    taken = events[: turn + 1]
    changes: dict[str, Any] = {"events_offset": taken[-1].end}
    measurements = []
    metrics = dict(job.metrics)
    epochs = job.epoch_seconds
    for event in taken:
        if event.kind == "phase":
            changes |= {
                "phase": Phase(event.content["phase"]),
                "progress": event.content["progress"],
            }
        elif event.kind == "checkpoint":
            changes["checkpoint"] = StoredCheckpoint(
                event.content["artifact"], event.content["sha256"], event.time
            )
        elif event.kind == "measurement":
            measurement = Measurement(**event.content)
            measurements.append(measurement)
            metrics = dict(islice({**metrics, **measurement.metrics}.items(), METRICS_MAX))
            changes["progress"] = measurement.progress
            if measurement.epoch_end:
                # A resumed job may report the epoch before its checkpoint again.
                epochs = (*epochs[: measurement.epoch - 1], measurement.epoch_seconds)
                epochs = epochs[:EPOCHS_MAX]
    return {**changes, "metrics": metrics, "epoch_seconds": epochs}, measurements
