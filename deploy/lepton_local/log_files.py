"""Logs of the stack's processes: kept small, read from their end, followed."""

from __future__ import annotations

import codecs
import os
import time
from collections.abc import Iterator
from pathlib import Path

from lepton_mesh.log_files import earlier, keep_smaller

MAX_BYTES = 16 * 1024**2
"""A log that is larger becomes ``<name>.log.1``, in place of the one before."""
_BLOCK_BYTES = 64 * 1024
_FOLLOW_SECONDS = 0.2


def keep_small(log: Path) -> None:
    """Begins a log anew that is larger than ``MAX_BYTES``, though a process may write to it.

    Raises:
        OSError: The log cannot be copied; it stays as it is.
    """
    keep_smaller(log, MAX_BYTES)


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a log and, where it is short, of the one before it.

    Raises:
        FileNotFoundError: There is no log.
    """
    lines = _last(log, count)
    if len(lines) < count and earlier(log).exists():
        lines = _last(earlier(log), count - len(lines)) + lines
    return [line.decode(errors="replace") for line in lines]


def all_lines(log: Path) -> Iterator[str]:
    """Every line that is left, the oldest first.

    Raises:
        FileNotFoundError: There is no log.
    """
    log.stat()
    for path in (earlier(log), log):
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    yield line.decode(errors="replace").rstrip("\r\n")


def follow(log: Path, position: int) -> Iterator[str]:
    """What is written from byte ``position`` on, as it comes; never ends."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    with log.open("rb") as file:
        while True:
            if os.fstat(file.fileno()).st_size < position:
                position = 0  # begun anew meanwhile
            file.seek(position)
            chunk = file.read(_BLOCK_BYTES)
            position += len(chunk)
            if chunk:
                yield decoder.decode(chunk)
            else:
                time.sleep(_FOLLOW_SECONDS)


def _last(path: Path, count: int) -> list[bytes]:
    blocks: list[bytes] = []
    ends = 0
    with path.open("rb") as file:
        position = file.seek(0, os.SEEK_END)
        # One end of a line more than lines: that of the line before the first.
        while position and ends <= count:
            size = min(_BLOCK_BYTES, position)
            position -= size
            file.seek(position)
            blocks.append(file.read(size))
            ends += blocks[-1].count(b"\n")
    return b"".join(reversed(blocks)).splitlines()[-count:] if count else []
