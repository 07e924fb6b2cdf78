"""Files that survive a power cut once written: fsync of the file and of its directory."""

from __future__ import annotations

import os
from pathlib import Path


def sync_directory(path: Path) -> None:
    """Makes renames and unlinks in ``path`` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def create_private(path: Path, content: bytes) -> None:
    """Creates ``path``, which must not exist, with mode 0600 from its first moment on."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(fd)


def write_private(path: Path, content: bytes) -> None:
    """Replaces ``path`` (mode 0600) by ``content``, atomically and durably."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    create_private(temporary, content)
    temporary.replace(path)
    sync_directory(path.parent)
