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


def create_private(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Creates ``path``, which must not exist, with mode 0600 from its first moment on."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
        if sync:
            file.flush()
            os.fsync(fd)


def write_private(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Replaces ``path`` (mode 0600) by ``content``, atomically and durably.

    Args:
        path: The file.
        content: All of what it holds then.
        sync: Without, a power cut may take the content: for what a new start writes anew.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    create_private(temporary, content, sync=sync)
    temporary.replace(path)
    if sync:
        sync_directory(path.parent)
