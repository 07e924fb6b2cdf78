"""A full disk, told apart from other failures: the one that whoever operates it can mend.

ResourceExhausted  <- DiskFull
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lepton_mesh.errors import ResourceExhausted

log = logging.getLogger(__name__)

BALLAST_FILE = "ballast"
BALLAST_BYTES = 4 << 20
_ROOM_FACTOR = 16
"""How many times its size must be free: it must not take what little was just made free."""


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


def keep_ballast(directory: Path) -> None:
    """Makes ``ballast``, a file that does nothing but take room, unless it is there. Blocks.

    On a full disk nothing can be deleted, for databases need room to write down what goes. Whoever
    operates it deletes the ballast first. Without much room, none is made.
    """
    path = directory / BALLAST_FILE
    if path.exists() or shutil.disk_usage(directory).free < _ROOM_FACTOR * BALLAST_BYTES:
        return
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, BALLAST_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        log.warning("no ballast", extra={"path": str(path), "error": str(error)})
        path.unlink(missing_ok=True)
