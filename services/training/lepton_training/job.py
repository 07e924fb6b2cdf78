"""A job: its record, the states it moves through, and what its process reports.

QUEUED ---> RUNNING ---> SUCCEEDED, FAILED
RUNNING --> QUEUED      an attempt failed, and another is worth it
RUNNING --> PAUSING --> PAUSED --> QUEUED
RUNNING, PAUSING ---> CANCELLING ---> CANCELLED
QUEUED, PAUSED -----> CANCELLED
QUEUED -------------> PAUSED

What is PAUSING or CANCELLING may turn out to have SUCCEEDED or FAILED already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum
from typing import Any

from lepton_mesh.errors import AlreadyExists, FailedPrecondition, NotFound


class JobNotFound(NotFound):
    reason = "JOB_NOT_FOUND"

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} does not exist; `lepton job list` shows those that do", job=name)


class JobExists(AlreadyExists):
    reason = "JOB_EXISTS"


class JobActive(FailedPrecondition):
    reason = "JOB_ACTIVE"


class JobNotPausable(FailedPrecondition):
    reason = "JOB_NOT_PAUSABLE"


class JobNotPaused(FailedPrecondition):
    reason = "JOB_NOT_PAUSED"


class State(StrEnum):
    """Where a job stands; names as in the API."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    PAUSING = "PAUSING"
    PAUSED = "PAUSED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether nothing follows."""
        return not TRANSITIONS[self]

    @property
    def has_process(self) -> bool:
        """Whether it holds cores, memory and GPUs of its node."""
        return self in WITH_PROCESS


TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.RUNNING, State.CANCELLED, State.FAILED, State.PAUSED}),
    State.RUNNING: frozenset(
        {State.SUCCEEDED, State.FAILED, State.CANCELLING, State.PAUSING, State.QUEUED}
    ),
    State.PAUSING: frozenset({State.PAUSED, State.SUCCEEDED, State.FAILED, State.CANCELLING}),
    State.PAUSED: frozenset({State.QUEUED, State.CANCELLED}),
    State.CANCELLING: frozenset({State.CANCELLED, State.SUCCEEDED, State.FAILED}),
    State.SUCCEEDED: frozenset(),
    State.FAILED: frozenset(),
    State.CANCELLED: frozenset(),
}
"""State -> the states that may follow."""

WITH_PROCESS = frozenset({State.RUNNING, State.PAUSING, State.CANCELLING})
"""States in which a job holds what it was given of its node."""

METRICS_MAX = 64
"""Names of metrics that a record remembers: the first."""

EPOCHS_MAX = 10_000
"""Epochs whose seconds a record remembers: the first."""

HISTORY_MAX = 50
"""Attempts that a record remembers."""


class Priority(IntEnum):
    """How urgent a job is; names as in the API."""

    LOW = 0
    NORMAL = 1
    HIGH = 2


class Phase(StrEnum):
    """What a running job is doing; names as in the API."""

    NONE = "PHASE_UNSPECIFIED"
    PREPARING = "PREPARING"
    TRAINING = "TRAINING"
    EVALUATING = "EVALUATING"
    EXPORTING = "EXPORTING"
    REGISTERING = "REGISTERING"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One life of a job's process."""

    number: int
    """From 1."""
    start_time: datetime
    end_time: datetime | None = None
    reason: str = ""
    """Why it ended; empty while it runs and when it succeeded."""
    message: str = ""
    node: str = ""
    """Where it ran; empty in records of before this was kept."""


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A copy of a job's checkpoint in storage."""

    artifact: str
    """``artifacts/{artifact}``; another one for every copy."""
    sha256: str
    time: datetime
    """When it was stored."""


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
    """How often an attempt failed with what another one may not."""
    run_seconds: float = 0.0
    """How long its processes have run before the eyes of a service."""
    node: str = ""
    """The machine (state directory) that runs it."""
    events_offset: int = 0
    """Bytes of its process's event file that are in the record already."""
    history: tuple[Attempt, ...] = ()
    """Its attempts, oldest first; the last :data:`HISTORY_MAX`."""
    queue_time: datetime | None = None
    """When it came back into the queue, resumed or after an attempt that failed; the create time
    counts before that."""
    not_before: datetime | None = None
    """When the next attempt may begin, after one that failed."""
    core_ids: tuple[int, ...] = ()
    """Processors that are its own; empty where it may use all."""
    warm_files: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """File name -> artifact and SHA-256 of what it begins with; empty where that is nothing."""
    gpu_ids: tuple[str, ...] = ()
    """GPUs that are its own, as CUDA_VISIBLE_DEVICES names them."""
    checkpoint: StoredCheckpoint | None = None
    """The copy that a node takes which has none of its own; None without one."""

    @property
    def name(self) -> str:
        """Resource name."""
        return f"jobs/{self.id}"

    def left(self, node: str) -> bool:
        """Whether it ran on ``node``, and has gone to another since."""
        return self.node != node and any(attempt.node == node for attempt in self.history)

    @property
    def waits_since(self) -> datetime:
        """When it came into the queue."""
        return self.queue_time or self.create_time

    @property
    def memory_mib(self) -> int:
        """Memory that is kept for it, in MiB; 0 where it has no limit."""
        return int(self.spec.get("resources", {}).get("memory_mib", 0))

    @property
    def gpus(self) -> int:
        """How many GPUs it needs."""
        return int(self.spec.get("resources", {}).get("gpus", 0))

    @property
    def priority(self) -> Priority:
        """How urgent it is."""
        return Priority[self.spec.get("priority", Priority.NORMAL.name)]


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
