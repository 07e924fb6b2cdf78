"""Logs that a process appends to without end, kept small by another."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def earlier(log: Path) -> Path:
    """Where what a log held before goes."""
    return log.with_name(f"{log.name}.1")


def keep_smaller(log: Path, max_bytes: int) -> None:
    """Begins a log anew that is larger than ``max_bytes``, though a process may write to it.

    That process goes on at the new beginning, as it appends; what it writes in the moment
    between copy and cut is lost.

    Raises:
        OSError: The log cannot be copied; it stays as it is.
    """
    try:
        if log.stat().st_size <= max_bytes:
            return
    except FileNotFoundError:
        return
    shutil.copyfile(log, earlier(log))
    os.truncate(log, 0)
