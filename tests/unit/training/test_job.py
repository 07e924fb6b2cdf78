"""The states of a job."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest

from lepton_training.job import TRANSITIONS, Job, State

ALLOWED = {
    ("QUEUED", "RUNNING"),
    ("QUEUED", "CANCELLED"),
    ("QUEUED", "FAILED"),
    ("QUEUED", "PAUSED"),
    ("RUNNING", "SUCCEEDED"),
    ("RUNNING", "FAILED"),
    ("RUNNING", "CANCELLING"),
    ("RUNNING", "PAUSING"),
    ("RUNNING", "QUEUED"),
    ("PAUSING", "PAUSED"),
    ("PAUSING", "SUCCEEDED"),
    ("PAUSING", "FAILED"),
    ("PAUSING", "CANCELLING"),
    ("PAUSED", "QUEUED"),
    ("PAUSED", "CANCELLED"),
    ("CANCELLING", "CANCELLED"),
    ("CANCELLING", "SUCCEEDED"),
    ("CANCELLING", "FAILED"),
}


def make(job_id: str = "a", **values: object) -> Job:
    defaults: dict[str, object] = {
        "workspace": "w",
        "id": job_id,
        "spec": {"recipe": "cnn"},
        "creator": "users/ada",
        "create_time": datetime.now(UTC),
        "cpus": 1,
    }
    return Job(**(defaults | values))


def test_only_legal_transitions() -> None:
    """The table is the one of the documentation; ended states have no way out."""
    assert {(a, b) for a, targets in TRANSITIONS.items() for b in targets} == ALLOWED
    assert {s for s in State if s.ended} == {State.SUCCEEDED, State.FAILED, State.CANCELLED}
    assert {s for s in State if s.has_process} == {State.RUNNING, State.PAUSING, State.CANCELLING}


def test_records_are_immutable() -> None:
    """A job changes by way of the repository only."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().state = State.FAILED
