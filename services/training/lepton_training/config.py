"""Settings of the training service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from lepton_mesh.config import MeshSettings


class TrainingSettings(MeshSettings):
    """Beside what every service reads."""

    job_cores: int = Field(default=0, ge=0)
    """Cores that all running jobs share; all of the machine's when 0."""
    job_kill_grace_seconds: float = Field(default=10.0, ge=0)
    """How long a job that is told to stop may take before it is killed."""
    job_crashes_max: int = Field(default=3, ge=1)
    """A job whose process dies without a word this often fails; stops of the stack do not count."""


class WorkerSettings(MeshSettings):
    """What the service sets for a job's process."""

    job_dir: Path
    """The job's directory: its request, data, checkpoint, events and log."""
