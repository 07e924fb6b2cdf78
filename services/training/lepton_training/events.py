"""The event file: how a job's process tells the service what it does.

One JSON object a line, appended to ``events.jsonl`` in the job's directory. The
service reads on from the byte it got to, which it keeps in its database, so that
neither a restart of the service nor a late watcher misses a line.

    {"time": ..., "kind": "phase", "phase": "TRAINING", "progress": 0.05}
    {"time": ..., "kind": "measurement", "step": ..., "metrics": {...}, ...}
    {"time": ..., "kind": "checkpoint", "artifact": "artifacts/...", "sha256": ...}
    {"time": ..., "kind": "succeeded", "model_version": ..., "metrics": {...}}
    {"time": ..., "kind": "failed", "reason": ..., "message": ..., "retryable": ...}
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lepton_training.failure import cut

EVENTS_FILE = "events.jsonl"
LOG_FILE = "log.txt"
DURABLE = frozenset({"phase", "checkpoint", "succeeded", "failed"})
"""Kinds that are on disk before the process goes on."""
_READ_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class WorkerEvent:
    """One line of the event file."""

    time: datetime
    kind: str
    content: dict[str, Any]
    end: int
    """The byte after its line."""

    @property
    def final(self) -> bool:
        """Whether the process has said all it has to say."""
        return self.kind in ("succeeded", "failed")


class EventWriter:
    """Appends to a job's event file; for the job's process."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / EVENTS_FILE
        self._end_last_line()

    def write(self, kind: str, **content: object) -> None:
        """Appends one event, in one write, durably where its kind asks for it.

        Texts are cut: a line that is longer than what is read at once would never be read.
        """
        short = {name: cut(one) if isinstance(one, str) else one for name, one in content.items()}
        record = {"time": datetime.now(UTC).isoformat(), "kind": kind, **short}
        line = (json.dumps(record) + "\n").encode()
        with self._path.open("ab", buffering=0) as file:
            file.write(line)
            if kind in DURABLE:
                os.fsync(file.fileno())

    def _end_last_line(self) -> None:
        """A process killed while it wrote leaves half a line; the next begins on a new one."""
        if self._path.exists() and not self._path.read_bytes().endswith(b"\n"):
            with self._path.open("ab") as file:
                file.write(b"\n")


def events_bytes(directory: Path) -> int:
    """Length of the event file; 0 without one."""
    try:
        return (directory / EVENTS_FILE).stat().st_size
    except FileNotFoundError:
        return 0


def read_events(directory: Path, offset: int) -> list[WorkerEvent]:
    """The events in whole lines from byte ``offset`` on; at most about 1 MiB of them."""
    try:
        with (directory / EVENTS_FILE).open("rb") as file:
            file.seek(offset)
            content = file.read(_READ_MAX)
    except FileNotFoundError:
        return []
    events = []
    for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
        offset += len(line)
        event = _parse(line, offset)
        if event is not None:
            events.append(event)
    return events


def _parse(line: bytes, end: int) -> WorkerEvent | None:
    """The event in ``line``; None for half a line of a process that was killed."""
    try:
        record = json.loads(line)
        return WorkerEvent(
            datetime.fromisoformat(record.pop("time")), str(record.pop("kind")), record, end
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
