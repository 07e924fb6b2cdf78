"""Settings of the training service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from lepton_mesh.config import DatabaseSettings, MeshSettings


class TrainingSettings(DatabaseSettings):
    """Beside what every service reads."""

    job_cores: int = Field(default=0, ge=0)
    """Cores that all running jobs share; all of the machine's when 0."""
    job_memory_mib: int = Field(default=0, ge=0)
    """Memory that running jobs with a limit share, in MiB; all of the machine's when 0."""
    job_gpus: str = "all"
    """GPUs that jobs get, as CUDA_VISIBLE_DEVICES names them, such as `0,1`; `all`, or `none`."""
    job_aging_seconds: float = Field(default=3600.0, gt=0)
    """A job that has waited so long rises by one priority, and again for each time more."""
    job_kill_grace_seconds: float = Field(default=10.0, ge=0)
    """How long a job that is told to stop may take before it is killed."""
    job_checkpoint_seconds: float = Field(default=60.0, gt=0)
    """How often a running job's checkpoint is copied to storage, where it is a new one."""
    job_checkpoint_mib: int = Field(default=4096, ge=1)
    """The largest checkpoint that is copied, MiB; a larger one stays on the job's node alone."""
    job_crashes_max: int = Field(default=3, ge=1)
    """Failed attempts after which a job fails, where its spec has no `retry.max_attempts`."""
    job_standby: bool = True
    """Whether a process waits for the next job, with PyTorch loaded: jobs begin and end seconds
    sooner, for some 400 MiB of memory."""
    job_environments_mib: int = Field(default=20_480, ge=1)
    """Disk for Python environments of users' code; those not used for longest go first, MiB."""

    allow_unconfined_code: bool = False
    """Whether users' code runs where the kernel has no Landlock to keep it from others' files."""


class WorkerSettings(MeshSettings):
    """What the service sets for a job's process."""

    job_dir: Path
    """The job's directory: its request, data, checkpoint, events and log."""
    environments_dir: Path
    """Where Python environments of users' code are kept, for all jobs of this machine."""
    environments_mib: int
    """What they may take together, MiB."""
    allow_unconfined_code: bool = False
    """Whether users' code runs where the kernel cannot confine it."""
    checkpoint_seconds: float
    """How often the checkpoint is copied to storage, where it is a new one."""
    checkpoint_mib: int
    """The largest that is copied, MiB."""
    kill_grace_seconds: float
    """How long this process may take to end when it is told to."""
