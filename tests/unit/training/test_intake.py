"""What a job's events change in its record."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from lepton_training.events import WorkerEvent
from lepton_training.intake import absorb
from lepton_training.job import Phase, StoredCheckpoint
from tests.unit.training.test_job import make

NOW = datetime(2026, 1, 2, tzinfo=UTC)


def event(end: int, kind: str, **content: Any) -> WorkerEvent:
    return WorkerEvent(NOW, kind, content, end)


def measured(end: int, epoch: int, seconds: float = 0.0, **metrics: float) -> WorkerEvent:
    numbers = {"step": end, "epoch": epoch, "epochs": 9, "progress": end / 100, "metrics": metrics}
    return event(end, "measurement", **numbers, epoch_end=bool(seconds), epoch_seconds=seconds)


def test_every_checkpoint_is_in_the_record_once() -> None:
    """One that another follows at once too: the record's change discards it."""
    events = [
        measured(10, 1, loss=0.5),
        event(20, "checkpoint", artifact="artifacts/1", sha256="a"),
        event(30, "checkpoint", artifact="artifacts/2", sha256="b"),
        measured(40, 1, loss=0.4),
    ]
    changes, measurements = absorb(make(), events)
    assert changes["checkpoint"] == StoredCheckpoint("artifacts/1", "a", NOW)
    assert (changes["events_offset"], len(measurements)) == (20, 1)
    changes, measurements = absorb(make(), events[2:])
    assert changes["checkpoint"] == StoredCheckpoint("artifacts/2", "b", NOW)
    changes, measurements = absorb(make(), events[3:])
    assert "checkpoint" not in changes
    assert (changes["events_offset"], changes["metrics"]) == (40, {"loss": 0.4})


def test_a_phase_ends_what_is_taken_at_once() -> None:
    """Each is an event of the record's."""
    events = [
        event(10, "phase", phase="TRAINING", progress=0.1),
        event(20, "phase", phase="EVALUATING", progress=0.9),
    ]
    changes, _ = absorb(make(), events)
    assert (changes["phase"], changes["progress"]) == (Phase.TRAINING, 0.1)
    assert changes["events_offset"] == 10


def test_an_epoch_that_is_done_again_counts_once() -> None:
    """A job that goes on from its checkpoint reports its end again."""
    job = make(epoch_seconds=(1.0, 2.0, 3.0), metrics={"kept": 1.0})
    changes, _ = absorb(job, [measured(10, 2, seconds=2.5), measured(20, 3, seconds=3.5)])
    assert changes["epoch_seconds"] == (1.0, 2.5, 3.5)
    assert changes["metrics"] == {"kept": 1.0}
