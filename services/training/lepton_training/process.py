"""Processes that outlive the service that started them: start, find again, wait, stop.

A worker leads a session and process group of its own, so that it survives the
service, and so that stopping the group stops everything it started. What leaves the
session is known by a mark in its environment, and by its parent. The process
id, with its start time and the machine's boot id, is kept on disk: the three
together name one process for good, where a process id alone is reused.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, BinaryIO

PROCESS_FILE = "process.json"
MARK = "_LEPTON_JOB"
"""Environment variable by which what a job's process started is known, in whatever session."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_KILL_ROUNDS = 100


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process, for good."""

    pid: int
    start_ticks: int
    """Clock ticks after boot (field 22 of /proc/<pid>/stat, proc(5))."""
    boot_id: str
    mark: str = ""
    """Value of :data:`MARK` in its environment, and in that of what it starts."""


class CoresGone(OSError):
    """None of the processors that a process was to be bound to is there any more."""


def start(
    command: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    core_ids: Collection[int] = (),
) -> ProcessId:
    """Starts ``command`` in a session of its own, output appended to ``log.txt`` of ``directory``.

    With ``core_ids`` it is bound to these processors, and so is all that it starts. Its id is
    in ``process.json`` when this returns.

    Raises:
        CoresGone: None of those processors is there any more.
        OSError: It cannot be started, or its id not be written. Nothing of it runs.
    """
    with (directory / "log.txt").open("ab") as log:
        found, _ = launch(command, environment, cwd=directory, stdin=subprocess.DEVNULL, output=log)
    keep(found, directory, core_ids)
    return found


def launch(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    cwd: Path | None = None,
    stdin: int,
    output: BinaryIO | int,
) -> tuple[ProcessId, IO[bytes] | None]:
    """Starts ``command`` in a session of its own, for nobody to find again until :func:`keep`.

    Returns it and, where ``stdin`` is ``subprocess.PIPE``, the end to write to. Raises OSError.
    """
    mark = uuid.uuid4().hex
    process = subprocess.Popen(  # its exit is reaped by reap
        list(command),
        cwd=cwd,
        env={**environment, MARK: mark},
        stdin=stdin,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    # Popen would wait for it when collected, and warn: it may outlive us on purpose.
    process.returncode = 0
    boot_id = _BOOT_ID.read_text().strip()
    found = ProcessId(process.pid, _start_ticks(process.pid) or 0, boot_id, mark)
    return found, process.stdin


def keep(found: ProcessId, directory: Path, core_ids: Collection[int] = ()) -> None:
    """Records that it runs for ``directory``, bound to these processors.

    Raises as :func:`start` does; it does not run then.
    """
    try:
        _bind(found.pid, core_ids)
        temporary = directory / (PROCESS_FILE + ".tmp")
        temporary.write_text(json.dumps(asdict(found)))
        temporary.replace(directory / PROCESS_FILE)
    except OSError:  # one that is not recorded would never be found again, one unbound take more
        signal_group(found, signal.SIGKILL)
        os.waitpid(found.pid, 0)
        raise


def _bind(pid: int, core_ids: Collection[int]) -> None:
    """The threads that it has; those that it makes later are bound as they are."""
    if not core_ids:
        return
    try:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(thread.name), core_ids)
    except (FileNotFoundError, ProcessLookupError):  # it ended already
        return
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise CoresGone(errno.EINVAL, f"processors {sorted(core_ids)} are gone") from error
        raise


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
    return bool(_members(process))


def signal_group(process: ProcessId, number: signal.Signals) -> None:
    """Sends a signal to itself and to all that it started, whatever session they moved to.

    SIGKILL goes to itself last: for as long as it lives, what it started can be told by its parent.
    """
    if number is signal.SIGKILL:
        for _ in range(_KILL_ROUNDS):  # one that forks may be ahead of us for a while
            started = [pid for pid in _members(process) if pid != process.pid]
            if not started:
                break
            _send(started, number)
    _send(_members(process), number)


def session_memory_mib(process: ProcessId) -> int:
    """Memory of it and of all that it started, in MiB: what is theirs alone, and shared memory.

    Files that are mapped do not count (RssAnon and RssShmem of proc_pid_status(5)).
    """
    kilobytes = 0
    for pid in _members(process):
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


def descendants(pid: int) -> list[int]:
    """Live processes that ``pid`` started, and those that they started."""
    return [one for one in _closure({pid}, _all_stats()) if one != pid]


def _send(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue


def _members(process: ProcessId) -> list[int]:
    """Live processes of the session that ``process`` leads, those with its mark, and all that
    they started.

    The session id cannot be taken by another session while a member lives; and when none of
    ours does, a process that began before ours cannot be a member either.
    """
    if _BOOT_ID.read_text().strip() != process.boot_id:
        return []
    stats = {
        pid: stat for pid, stat in _all_stats().items() if stat.start_ticks >= process.start_ticks
    }
    leader = _stat(process.pid)
    # Otherwise the id was given to another process: the whole session had ended.
    led = leader is None or leader.start_ticks == process.start_ticks
    members = {
        pid
        for pid, stat in stats.items()
        if (led and stat.session == process.pid) or (process.mark and _has_mark(pid, process.mark))
    }
    return _closure(members, stats)


def _closure(pids: set[int], stats: Mapping[int, _Stat]) -> list[int]:
    """Those of ``pids`` that live, and all that they started."""
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat.parent, []).append(pid)
    found, open_ends = set(pids), list(pids)
    while open_ends:
        for child in children.get(open_ends.pop(), ()):
            if child not in found:
                found.add(child)
                open_ends.append(child)
    return [pid for pid in found if pid in stats]


def _all_stats() -> dict[int, _Stat]:
    """Every live process."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    stats = {pid: _stat(pid) for pid in pids}
    return {pid: stat for pid, stat in stats.items() if stat is not None and stat.state not in "ZX"}


def _has_mark(pid: int, mark: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # gone meanwhile, or somebody else's
        return False
    return f"{MARK}={mark}".encode() in environment.split(b"\0")


@dataclass(frozen=True, slots=True)
class _Stat:
    state: str
    parent: int
    session: int
    start_ticks: int


def _stat(pid: int) -> _Stat | None:
    try:
        content = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command, in brackets, may itself hold blanks and brackets.
    fields = content[content.rindex(")") + 2 :].split()
    return _Stat(
        state=fields[0], parent=int(fields[1]), session=int(fields[3]), start_ticks=int(fields[19])
    )


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
