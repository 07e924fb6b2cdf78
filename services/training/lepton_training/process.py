"""Processes that outlive the service that started them: start, find again, wait, stop.

A worker leads a session and process group of its own, so that it survives the
service, and so that stopping the group stops everything it started. Its process
id, with its start time and the machine's boot id, is kept on disk: the three
together name one process for good, where a process id alone is reused.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

PROCESS_FILE = "process.json"
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process, for good."""

    pid: int
    start_ticks: int
    """Clock ticks after boot (field 22 of /proc/<pid>/stat, proc(5))."""
    boot_id: str


def start(
    command: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    core_ids: Collection[int] = (),
) -> ProcessId:
    """Starts ``command`` in a session of its own, output appended to ``log.txt`` of ``directory``.

    With ``core_ids`` it is bound to these processors, and so is all that it starts. Its id is
    in ``process.json`` when this returns.
    """
    with (directory / "log.txt").open("ab") as log:
        process = subprocess.Popen(  # its exit is reaped by reap
            list(command),
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    if core_ids:  # it still loads: threads that it makes later are bound as it is
        with suppress(ProcessLookupError):
            os.sched_setaffinity(process.pid, core_ids)
    # Popen would wait for it when collected, and warn: it may outlive us on purpose.
    process.returncode = 0
    found = ProcessId(process.pid, _start_ticks(process.pid) or 0, _BOOT_ID.read_text().strip())
    try:
        temporary = directory / (PROCESS_FILE + ".tmp")
        temporary.write_text(json.dumps(asdict(found)))
        temporary.replace(directory / PROCESS_FILE)
    except OSError:  # one that is not recorded would never be found again
        signal_group(found, signal.SIGKILL)
        os.waitpid(found.pid, 0)
        raise
    return found


def recorded(directory: Path) -> ProcessId | None:
    """The process that was last started for ``directory``, dead or alive."""
    try:
        return ProcessId(**json.loads((directory / PROCESS_FILE).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def is_alive(process: ProcessId) -> bool:
    """Whether it runs; a zombie does not."""
    return (
        _start_ticks(process.pid) == process.start_ticks
        and _BOOT_ID.read_text().strip() == process.boot_id
    )


def group_alive(process: ProcessId) -> bool:
    """Whether any process of its session runs, itself or one that it left behind."""
    return bool(_session_members(process))


def signal_group(process: ProcessId, number: signal.Signals) -> None:
    """Sends a signal to every process of its session, whatever process group it moved to."""
    for pid in _session_members(process):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def session_memory_mib(process: ProcessId) -> int:
    """Memory of all processes of its session, in MiB: what is theirs alone, and shared memory.

    Files that are mapped do not count (RssAnon and RssShmem of proc_pid_status(5)).
    """
    kilobytes = 0
    for pid in _session_members(process):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in status.splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                kilobytes += int(line.split()[1])
    return kilobytes >> 10


def reap(process: ProcessId) -> int | None:
    """The exit status of a dead child, negative for a signal; None if it was never our child."""
    try:
        pid, status = os.waitpid(process.pid, os.WNOHANG)
    except ChildProcessError:
        return None
    return os.waitstatus_to_exitcode(status) if pid else None


def _session_members(process: ProcessId) -> list[int]:
    """Live processes of the session that ``process`` leads.

    The session id cannot be taken by another session while a member lives; and when none of
    ours does, a process that began before ours cannot be a member either.
    """
    if _BOOT_ID.read_text().strip() != process.boot_id:
        return []
    members = []
    leader = _stat(process.pid)
    if leader is not None and leader.start_ticks != process.start_ticks:
        return []  # the id was given to another process: the whole session had ended
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        found = _stat(int(entry.name))
        if (
            found is not None
            and found.session == process.pid
            and found.state not in "ZX"
            and found.start_ticks >= process.start_ticks
        ):
            members.append(int(entry.name))
    return members


@dataclass(frozen=True, slots=True)
class _Stat:
    state: str
    session: int
    start_ticks: int


def _stat(pid: int) -> _Stat | None:
    try:
        content = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command, in brackets, may itself hold blanks and brackets.
    fields = content[content.rindex(")") + 2 :].split()
    return _Stat(state=fields[0], session=int(fields[3]), start_ticks=int(fields[19]))


def _start_ticks(pid: int) -> int | None:
    found = _stat(pid)
    return None if found is None or found.state in "ZX" else found.start_ticks


def stop_recorded(root: Path, grace_seconds: float = 5.0) -> int:
    """Ends every process that was started for a directory ``root/*/*``; returns how many."""
    found = [
        one
        for path in root.glob(f"*/*/{PROCESS_FILE}")
        if (one := recorded(path.parent)) is not None and group_alive(one)
    ]
    for one in found:
        signal_group(one, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while any(group_alive(one) for one in found):
        if time.monotonic() > deadline:
            for one in found:
                signal_group(one, signal.SIGKILL)
        time.sleep(0.05)
    return len(found)
