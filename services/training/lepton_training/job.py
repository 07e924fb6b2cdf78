"""A job: its record, the states it moves through, and what its process reports.

QUEUED ----> RUNNING ----> SUCCEEDED
  |  \\          |  \\------> FAILED
  |   \\-> FAILED v
  |        CANCELLING ---> CANCELLED, SUCCEEDED (it was done already), FAILED
  \\-----> CANCELLED
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from lepton_mesh.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound


class JobNotFound(NotFound):
    reason = "JOB_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} does not exist; `lepton job list` shows those that do", job=name)


class JobExists(AlreadyExists):
    reason = "JOB_EXISTS"


class JobActive(FailedPrecondition):
    reason = "JOB_ACTIVE"


class RequestIdInvalid(InvalidArgument):
    reason = "JOB_REQUEST_ID_INVALID"


class State(StrEnum):
    """Where a job stands; names as in the API."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether nothing follows."""
        return not TRANSITIONS[self]


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.FAILED}),
    State.RUNNING: frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLING}),
    State.CANCELLING: frozenset({State.CANCELLED, State.SUCCEEDED, State.FAILED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}
"""State -> the states that may follow."""


class Phase(StrEnum):
    """What a running job is doing; names as in the API."""

    NONE = "PHASE_UNSPECIFIED"
    PREPARING = "PREPARING"
    TRAINING = "TRAINING"
    EVALUATING = "EVALUATING"
    EXPORTING = "EXPORTING"
    REGISTERING = "REGISTERING"


@dataclass(frozen=True, slots=True)
class Job:
    """The record of a job; changed only by way of the repository."""

    workspace: str
    id: str
    spec: Mapping[str, Any]
    """As ``JobSpec.to_dict`` gives it, with the dataset version resolved."""
    creator: str
    create_time: datetime
    cpus: int
    """Cores it takes from its node; before it starts also 0, for all of them."""
    dataset_digest: str = ""
    request_id: str = ""
    state: State = State.QUEUED
    phase: Phase = Phase.NONE
    progress: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    epoch_seconds: tuple[float, ...] = ()
    failure_reason: str = ""
    failure_message: str = ""
    model_version: str = ""
    start_time: datetime | None = None
    end_time: datetime | None = None
    attempts: int = 0
    """How often its process was started."""
    crashes: int = 0
    """How often its process died without a word."""
    run_seconds: float = 0.0
    """How long its processes have run before the eyes of a service."""
    node: str = ""
    """The machine (state directory) that runs it."""
    events_offset: int = 0
    """Bytes of its process's event file that are in the record already."""

    @property
    def name(self) -> str:
        """Resource name."""
        return f"jobs/{self.id}"


@dataclass(frozen=True, slots=True)
class Measurement:
    """Numbers that a job's process reported."""

    step: int
    epoch: int
    epochs: int
    progress: float
    metrics: Mapping[str, float]
    epoch_end: bool = False
    epoch_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a job: the record changed, or numbers came in."""

    sequence: int
    """From 1, without gaps."""
    time: datetime
    content: Job | Measurement
