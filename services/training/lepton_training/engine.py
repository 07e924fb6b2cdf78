"""What it takes to run jobs on this node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lepton_training.changes import Changes
from lepton_training.job_files import JobFiles
from lepton_training.ports import CredentialIssuer, JobRepository
from lepton_training.standby import Standby


@dataclass(frozen=True, slots=True)
class Engine:
    """What every attendant works with."""

    repository: JobRepository
    files: JobFiles
    credentials: CredentialIssuer
    changes: Changes
    command: Sequence[str]
    """Starts a job's process; it finds its job in LEPTON_JOB_DIR."""
    environment: Mapping[str, str]
    """Of every job's process, beside what is the job's own."""
    node: str
    """This machine (its state directory), as jobs record it."""
    kill_grace_seconds: float
    """Between SIGTERM and SIGKILL."""
    crashes_max: int
    """A job fails after so many failed attempts, where its spec says nothing else."""
    standby: Standby | None = None
    """A process that was started ahead, for a job of a recipe; without it each job starts one."""
