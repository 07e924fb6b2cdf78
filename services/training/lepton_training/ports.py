"""What the domain needs from outside."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from lepton_training.job import Event, Job, Measurement, State


class JobRepository(Protocol):
    """The records and events of all jobs."""

    async def create(self, job: Job) -> Job:
        """Adds a job with its first event; returns the job that had its ``request_id`` before.

        Of several that come at once with one id or request id, one is added.

        Raises JobExists.
        """

    async def get(self, workspace: str, job_id: str) -> Job:
        """Raises JobNotFound."""

    async def list_newest(
        self, workspace: str, limit: int, before: tuple[datetime, str] | None
    ) -> list[Job]:
        """At most ``limit`` jobs, newest first, from the one after (create time, id) ``before``."""

    async def change(
        self,
        job: Job,
        expected: Collection[State],
        changes: dict[str, Any],
        measurements: Iterable[Measurement] = (),
    ) -> Job | None:
        """Applies ``changes`` in one transaction if the job is still in one of ``expected``.

        What ``run_seconds`` grows by counts as its workspace's usage.

        A stored checkpoint that the record names no longer is ``discarded`` from then on.

        Adds an event for each measurement, and one with the record where state or phase
        changed. Returns the new record, or None when the job was in another state.

        Raises:
            ValueError: The state machine has no such transition (a bug).
        """

    async def queued(self) -> list[Job]:
        """Jobs that wait, oldest first."""

    async def active(self, node: str) -> list[Job]:
        """Jobs that have a process, of ``node``."""

    async def running(self) -> list[Job]:
        """Jobs that have a process, of all nodes."""

    async def usage(self, now: datetime) -> dict[str, float]:
        """Core-seconds that each workspace has used lately: what is a day old counts half."""

    async def events(self, workspace: str, job_id: str, after: int, limit: int) -> list[Event]:
        """Events with a sequence above ``after``, in order."""

    async def delete(self, job: Job) -> bool:
        """Removes the record of a job that has ended, with its events; its stored checkpoint is
        ``discarded``.

        False where it has not, or is another: an id may be used again once a job is deleted.
        """

    async def discarded(self, limit: int) -> list[tuple[str, str]]:
        """Workspace and artifact of checkpoints that are to be deleted; at most ``limit``."""

    async def forget_discarded(self, workspace: str, artifact: str) -> None:
        """Takes note that it was deleted."""


@dataclass(frozen=True, slots=True)
class JobCredentials:
    """What a job's process proves its identity with."""

    join_token: str = field(repr=False)
    access_token: str = field(repr=False)


class CredentialIssuer(Protocol):
    """The authority that knows jobs."""

    async def issue(
        self, workspace: str, job: str, reads: list[str], writes: list[str], ttl_seconds: int
    ) -> JobCredentials:
        """Credentials limited to those resources. Raises LeptonError."""

    async def join_address(self) -> str:
        """``host:port`` where a join token is exchanged; Unavailable if not known yet."""


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """What the service must know of a dataset version."""

    name: str
    """With its number, never ``latest``."""
    digest: str
    format: str
    """As in the storage API, such as ``DATASET_FORMAT_IDX``."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """What the service must know of a registered version."""

    name: str
    """With its number, never an alias."""
    recipe: str
    """Empty for an imported model."""
    dataset: str
    """Dataset version that it was trained on; empty where it does not say."""
    attachments: Mapping[str, str]
    """File name -> ``artifacts/{artifact}``."""


class Models(Protocol):
    """The registry, asked with the caller's own rights."""

    async def resolve(self, name: str) -> ModelVersion:
        """A version by name or alias; raises what the registry answers, such as NotFound."""


class Datasets(Protocol):
    """The storage service, asked with the caller's own rights."""

    async def resolve(self, name: str) -> DatasetVersion:
        """Raises what the storage service answers, such as NotFound."""


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """What the service must know of an artifact."""

    name: str
    sha256: str
    size_bytes: int
    media_type: str


class Artifacts(Protocol):
    """The storage service, asked with the caller's own rights."""

    async def resolve(self, name: str) -> StoredArtifact:
        """Raises what the storage service answers, such as NotFound."""


class Checkpoints(Protocol):
    """Jobs' checkpoints in the storage service, asked on the training service's own behalf."""

    async def delete(self, workspace: str, artifact: str) -> None:
        """Deletes one; one that is not there counts as deleted. Raises LeptonError."""
