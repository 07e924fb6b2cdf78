"""Why a job failed, in words: for its own process and for the service that starts it."""

from __future__ import annotations

import errno

from lepton_mesh.errors import LeptonError

UNEXPECTED = "WORKER_ERROR"
"""The reason of what nobody foresaw."""
MESSAGE_MAX = 4000
"""Characters of a message that a job fails with: those of many faults of a spec."""


class ToldFailure(Exception):
    """What a process of the job's own says that it failed with."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def describe_failure(error: BaseException, told_in: str = "the job's log") -> tuple[str, str]:
    """The reason and the message that a job fails with.

    Args:
        told_in: Where the caller writes the traceback of an error that has the reason
            :data:`UNEXPECTED`; its text, which may tell of the machine, is not in the message.
    """
    if isinstance(error, LeptonError | ToldFailure):
        return error.reason, cut(error.message)
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return (
            "OUT_OF_MEMORY",
            "the job needs more memory than it may use; raise resources.memory_mib or lower "
            "hyperparameters.batch_size",
        )
    if disk_full(error):
        return "DISK_FULL", "no space is left for the job's files; free some and start it again"
    return UNEXPECTED, f"internal error ({type(error).__name__}); {told_in} has the traceback"


def cut(text: str) -> str:
    """At most :data:`MESSAGE_MAX` characters of it."""
    return text if len(text) <= MESSAGE_MAX else text[: MESSAGE_MAX - 1] + "…"


def memory_exceeded(used_mib: int, allowed_mib: int) -> tuple[str, str]:
    """The reason and the message of a job that was ended because it took too much memory."""
    return (
        "OUT_OF_MEMORY",
        f"the job's processes took {used_mib} MiB of memory, more than their {allowed_mib}; raise "
        "resources.memory_mib or lower hyperparameters.batch_size",
    )


def worth_another_attempt(error: BaseException) -> bool:
    """Whether what failed may pass: a service that is away, a race that was lost."""
    return isinstance(error, LeptonError) and error.wire.retryable


def disk_full(error: BaseException) -> bool:
    """Whether the disk is full, or the quota of the user is."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
