"""Why a job failed, in words: for its own process and for the service that starts it."""

from __future__ import annotations

import errno

from lepton_mesh.errors import LeptonError


def describe_failure(error: BaseException) -> tuple[str, str]:
    """The reason and the message that a job fails with."""
    if isinstance(error, LeptonError):
        return error.reason, error.message
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return (
            "OUT_OF_MEMORY",
            "the job needs more memory than it may use; raise resources.memory_mib or lower "
            "hyperparameters.batch_size",
        )
    if disk_full(error):
        return "DISK_FULL", "no space is left for the job's files; free some and start it again"
    return "WORKER_ERROR", f"{type(error).__name__}: {error}"


def disk_full(error: BaseException) -> bool:
    """Whether the disk is full, or the quota of the user is."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
