"""A full disk, told apart from other failures: the one that whoever operates it can mend.

ResourceExhausted  <- DiskFull
"""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lepton_mesh.errors import ResourceExhausted


class DiskFull(ResourceExhausted):
    reason = "DISK_FULL"


def is_disk_full(error: BaseException) -> bool:
    """Whether the system or SQLite says "no space left" or "quota exceeded"."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL


def disk_full(place: str | Path, afterwards: str = "then try again") -> DiskFull:
    """The error for a disk that has no room at ``place``.

    Args:
        place: The file or directory for which there was none.
        afterwards: What to do once there is room.
    """
    return DiskFull(
        f"no space left on the disk that holds {place}; free some, {afterwards}", path=place
    )


@contextmanager
def disk_errors(place: str | Path, afterwards: str = "then try again") -> Iterator[None]:
    """Turns "no space left" and "quota exceeded" raised inside into DiskFull."""
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise disk_full(place, afterwards) from error
        raise
