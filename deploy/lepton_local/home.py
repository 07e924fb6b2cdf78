"""Where a local stack keeps everything, and the record of what it runs.

    <home>/
      stack.json     what runs, where, and how far the start is; written by the supervisor
      lock           held by `lepton up`, which hands it on to its supervisor for life
      ca.pem         the root that clients trust
      logs/          one file per process
      etcd/ auth/ storage/ registry/ training/ inference/ gateway/    a directory each

The default is ``$LEPTON_HOME``, else ``$XDG_STATE_HOME/lepton``, else
``~/.local/state/lepton``.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lepton_local.errors import HomeUnwritable, RecordUnreadable, StackBusy
from lepton_mesh.durable import write_private

SERVICES = ("auth", "storage", "registry", "training", "inference", "gateway")
"""In the order in which they start."""


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A process, named so that a later one with the same number is not taken for it."""

    pid: int
    started: float
    """Seconds since the epoch, from the kernel."""
    restarts: int = 0

    @classmethod
    def from_plain(cls, values: Any) -> ProcessRecord:
        return cls(int(values["pid"]), float(values["started"]), int(values.get("restarts", 0)))


@dataclass(slots=True)
class StackRecord:
    """What a stack runs, and how far it is."""

    state: str
    """STARTING, READY, STOPPING or FAILED."""
    supervisor: ProcessRecord
    step: str = ""
    """What the start is doing now, for people."""
    error: str = ""
    """Why it FAILED."""
    gateway: str = ""
    """``host:port`` that users call."""
    etcd: str = ""
    """``host:port`` of etcd."""
    join: str = ""
    """``host:port`` of auth's join listener."""
    seconds_to_ready: float = 0.0
    processes: dict[str, ProcessRecord] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> StackRecord:
        """The record in ``stack.json``.

        Fields of another version are left out, and those that it lacks have their defaults.

        Raises:
            ValueError: It does not tell what runs.
        """
        try:
            values = json.loads(text)
            texts = ("step", "error", "gateway", "etcd", "join")
            return cls(
                state=str(values["state"]),
                supervisor=ProcessRecord.from_plain(values["supervisor"]),
                **{name: str(values.get(name, "")) for name in texts},
                seconds_to_ready=float(values.get("seconds_to_ready", 0.0)),
                processes={
                    name: ProcessRecord.from_plain(process)
                    for name, process in values.get("processes", {}).items()
                },
            )
        except (AttributeError, KeyError, OverflowError, TypeError) as error:
            raise ValueError(f"not a record of a stack: {error!r}") from None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2)


@dataclass(frozen=True, slots=True)
class Home:
    """The directory of one stack."""

    path: Path

    @classmethod
    def default(cls, environ: Mapping[str, str] = os.environ) -> Home:
        """The stack that commands mean when none is named."""
        if home := environ.get("LEPTON_HOME"):
            return cls(Path(home).absolute())
        base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
        return cls(Path(base).absolute() / "lepton")

    @property
    def ca_file(self) -> Path:
        return self.path / "ca.pem"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def service(self, name: str) -> Path:
        """The directory of one process."""
        return self.path / name

    def log(self, name: str) -> Path:
        """The log of one process."""
        return self.logs / f"{name}.log"

    def create(self) -> None:
        """Makes the directory, for its owner only.

        Raises:
            HomeUnwritable: It cannot be made.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None

    def read(self) -> StackRecord | None:
        """The record; None when nothing was started, or it was stopped.

        Raises:
            RecordUnreadable: It is damaged, or of a version that says too little.
        """
        try:
            return StackRecord.from_json(self._record_file.read_text())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RecordUnreadable(
                f"{self._record_file} cannot be read ({error}); `lepton down --home {self.path}` "
                "ends what runs there and removes it, the data stays",
                home=self.path,
            ) from None

    def write(self, record: StackRecord) -> None:
        """Replaces the record, all or nothing.

        Raises:
            OSError: It cannot be written; the one before stays.
        """
        write_private(self._record_file, record.to_json().encode())

    def forget(self) -> None:
        """Removes the record; the data stays."""
        self._record_file.unlink(missing_ok=True)

    @property
    def _record_file(self) -> Path:
        return self.path / "stack.json"

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Holds the lock of the one stack that this home may have.

        Yields its file descriptor: a child that inherits it holds the lock as well, for as long
        as it lives.

        Raises:
            HomeUnwritable: The lock cannot be made.
            StackBusy: Another stack, or another start, holds it.
        """
        try:
            opened = (self.path / "lock").open("w")
        except OSError as error:
            raise self._unwritable(error) from None
        with opened as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackBusy(
                    f"another stack is running in {self.path}; stop it with `lepton down`, or "
                    "name another directory with --home",
                    home=self.path,
                ) from None
            yield file.fileno()

    def _unwritable(self, error: OSError) -> HomeUnwritable:
        return HomeUnwritable(
            f"cannot write to {self.path}: {error.strerror}; name another directory with --home",
            home=self.path,
        )
