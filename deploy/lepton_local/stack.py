"""A stack brought up, and brought down: what the commands and the demo share."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
import psutil

from lepton.cli.output import on_terminal
from lepton.client import ProfileError, load_profile
from lepton_local import log_files, ports, processes
from lepton_local.errors import (
    RecordUnreadable,
    StackBusy,
    StackMissing,
    StartFailed,
    StopFailed,
)
from lepton_local.home import Home, StackRecord
from lepton_local.listener import Listener
from lepton_local.programs import find_envoy, find_etcd
from lepton_mesh.disk import DiskFull

if TYPE_CHECKING:
    from lepton_local.authority import Authority

_START_TIMEOUT_SECONDS = 120.0
_STOP_TIMEOUT_SECONDS = 90.0
_LOCK_TIMEOUT_SECONDS = 30.0
_POLL_SECONDS = 0.05
_PROFILE_SECONDS = 2.0
"""How long another `lepton up` that saw the stack READY may take to write its profile."""


_LEAST_FREE_BYTES = 192 << 20
"""etcd alone sets 128 MiB aside for its log; with less it ends, and does not say why."""


ShowPassword = Callable[[str, str], None]
"""Shows the admin's id and its new password, which are written down nowhere."""


def bring_up(
    stack: Home,
    host: str,
    port: int,
    profile_name: str,
    *,
    names: Sequence[str] = (),
    show_password: ShowPassword = lambda _user, _password: None,
) -> tuple[StackRecord, Path | None]:
    """Starts a stack, waits until it is READY and writes the CLI profile.

    Args:
        stack: Its directory.
        host: Address that users' connections are accepted on.
        port: Their port; 0 takes a free one.
        profile_name: The profile to write.
        names: DNS names and addresses, besides ``host``, that users may call it by.
        show_password: Called at the very first start, however that goes on.

    Returns:
        Its record, and the file that the profile was written to; None in place of that when it
        was up already and has its profile.

    Raises:
        StartFailed: It could not be started; nothing of it is left running, and no record.
        PortInUse: The same, before anything was made.
        DiskFull: The same.
        EtcdMissing: The same.
        EnvoyMissing: The same.
        ProgramUnusable: The same, for etcd or Envoy.
        BadParameter: ``host`` or a name is none.
        HomeUnwritable: The stack's directory cannot be made.
        StackBusy: A stack in this directory is ending, and takes long.
        RecordUnreadable: Its record is damaged; `lepton down` helps.
    """
    try:
        listener = Listener.of(host, port, names)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    deadline = time.monotonic() + _LOCK_TIMEOUT_SECONDS
    while not _is_up(stack):
        stack.create()
        try:
            with stack.locked() as lock:
                _make_room(stack, listener)
                authority = _open_authority(stack, profile_name, show_password)
                supervisor = _spawn_supervisor(stack, lock, listener)
                return _finish(stack, supervisor, authority, profile_name)
        except StackBusy:
            # Another `lepton up` is at it, or a `lepton down`: soon there is a record, or no lock.
            if time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)
    record = _wait_ready(stack, None)
    return record, _write_missing_profile(stack, record, profile_name)


def reset_password(stack: Home) -> tuple[str, str]:
    """Gives the first admin a new password, whether the stack is up or not.

    Returns:
        The admin's id and the password.

    Raises:
        StackMissing: The stack was never up.
        UserNotFound: Somebody deleted that admin.
    """
    if not stack.ca_file.exists():
        raise StackMissing(f"there is no stack in {stack.path}; `lepton up` makes one")
    from lepton_local.authority import Authority  # noqa: PLC0415  # as in _open_authority

    authority = Authority.of(stack)
    return authority.user, asyncio.run(authority.reset_password())


def _is_up(stack: Home) -> bool:
    record = stack.read()
    return (
        record is not None
        and record.state in {"READY", "STARTING"}
        and processes.alive(record.supervisor)
    )


def _make_room(stack: Home, listener: Listener) -> None:
    # A supervisor that was killed could not end what it had started.
    processes.end(processes.belonging_to(stack), 2.0)
    # A record from before would be taken for the new supervisor's, and what failed then for what
    # fails now.
    stack.forget()
    find_etcd()
    find_envoy()
    ports.check_free(listener.host, listener.port)
    free = shutil.disk_usage(stack.path).free
    if free < _LEAST_FREE_BYTES:
        raise DiskFull(
            f"{free >> 20} MiB are left on the disk that holds {stack.path}, and a stack needs "
            f"{_LEAST_FREE_BYTES >> 20} to start; free some, or name another place with --home"
        )


def _open_authority(stack: Home, profile_name: str, show_password: ShowPassword) -> Authority:
    """The stack's authority, made here and not in the supervisor: its password goes to nobody."""
    # Imported late: what they need is not needed to see that a stack is up.
    from lepton_local.account import forget_key  # noqa: PLC0415  # see above
    from lepton_local.authority import Authority  # noqa: PLC0415  # see above

    authority = asyncio.run(Authority.open(stack))
    if authority.password:
        # At once: whatever fails from here on, there is no other copy.
        show_password(authority.user, authority.password)
        forget_key(stack, profile_name)
    return authority


def _spawn_supervisor(stack: Home, lock: int, listener: Listener) -> subprocess.Popen[bytes]:
    log_files.keep_small(stack.log("supervisor"))
    with stack.log("supervisor").open("ab") as output:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "lepton_local.supervisor", "--home", str(stack.path)),
                *("--lock", str(lock)),
                *("--gateway-host", listener.host, "--gateway-port", str(listener.port)),
                *(f"--gateway-name={name}" for name in listener.names),
            ],
            env=processes.base_environ(stack),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=[lock],
            start_new_session=True,
        )


def _finish(
    stack: Home, supervisor: subprocess.Popen[bytes], authority: Authority, profile_name: str
) -> tuple[StackRecord, Path]:
    from lepton_local.account import save_admin_profile  # noqa: PLC0415  # as in _open_authority

    try:
        record = _wait_ready(stack, supervisor)
        return record, asyncio.run(save_admin_profile(authority, stack, record, profile_name))
    except BaseException:
        # Our own supervisor, and not whoever else may hold this home: it ends what it started.
        if supervisor.poll() is None:
            supervisor.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                supervisor.wait(_STOP_TIMEOUT_SECONDS)
        # The lock is still ours, so what is left is of this start: of a supervisor that was
        # killed, or that hangs.
        processes.end(processes.belonging_to(stack), 2.0)
        # Whoever called is told what failed; to tell it again is not for a later `lepton status`.
        stack.forget()
        raise


def _write_missing_profile(stack: Home, record: StackRecord, name: str) -> Path | None:
    """Makes the profile that a `lepton up` which was killed owes; None if it is there.

    One of that name that leads to another stack is replaced, as at the first start.
    """
    from lepton_local.account import save_admin_profile  # noqa: PLC0415  # as in _open_authority
    from lepton_local.authority import Authority  # noqa: PLC0415  # as above

    deadline = time.monotonic() + _PROFILE_SECONDS
    while not _leads_to(stack, record, name):
        if time.monotonic() > deadline:
            return asyncio.run(save_admin_profile(Authority.of(stack), stack, record, name))
        time.sleep(_POLL_SECONDS)
    return None


def _leads_to(stack: Home, record: StackRecord, name: str) -> bool:
    """Whether the profile ``name`` is there, and is this stack's rather than another's."""
    try:
        profile = load_profile(name)
    except ProfileError:
        return False
    return (profile.address, profile.ca_file) == (record.gateway, str(stack.ca_file))


def _wait_ready(stack: Home, supervisor: subprocess.Popen[bytes] | None) -> StackRecord:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    shown = ""
    while time.monotonic() < deadline:
        record = stack.read()
        if record and record.step != shown and on_terminal():
            shown = record.step
            click.echo(f"  {shown}", err=True)
        if record and record.state == "READY":
            return record
        if record and record.state == "FAILED":
            raise StartFailed(f"the stack could not be started: {record.error}")
        if supervisor is not None and supervisor.poll() is not None:
            lines = "\n".join(log_files.last_lines(stack.log("supervisor"), 5))
            raise StartFailed(f"the supervisor ended at its start; its log ends with:\n{lines}")
        if record is None and supervisor is None:
            raise StartFailed("the stack was stopped, or failed to start; `lepton up` tries again")
        time.sleep(_POLL_SECONDS)
    raise StartFailed(
        f"the stack is not ready after {_START_TIMEOUT_SECONDS:.0f} s; see the logs in {stack.logs}"
    )


def bring_down(stack: Home) -> bool:
    """Ends every process of a stack, and nothing else; False when there was none.

    Raises:
        StopFailed: Something of it could not be ended.
    """
    try:
        record = stack.read()
    except RecordUnreadable:
        record = None  # what belongs to the stack is found without it, and ended below
    found = False
    if record and processes.alive(record.supervisor):
        found = True
        supervisor = psutil.Process(record.supervisor.pid)
        supervisor.terminate()
        try:
            supervisor.wait(_STOP_TIMEOUT_SECONDS)
        except psutil.TimeoutExpired:
            supervisor.kill()
    # A supervisor that was killed could not end what it had started.
    if left := processes.belonging_to(stack):
        found = True
        processes.end(left, 10.0)
    if left := processes.belonging_to(stack):
        pids = ", ".join(str(process.pid) for process in left)
        raise StopFailed(f"could not end {pids}; end them with `kill -9`, then try again")
    stack.forget()
    return found
