"""A stack brought up, and brought down: what the commands and the demo share."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from lepton.cli.output import on_terminal
from lepton_local import processes
from lepton_local.home import Home, StackRecord

_START_TIMEOUT_SECONDS = 120.0
_STOP_TIMEOUT_SECONDS = 90.0
_POLL_SECONDS = 0.05


class StackError(click.ClickException):
    """What went wrong with the local stack, and what to do."""


@dataclass(frozen=True, slots=True)
class Started:
    """How to work with a stack that was just started."""

    user: str
    password: str
    """At the very first start only; empty after."""
    profile: Path
    """The file that the profile was written to."""


def bring_up(
    stack: Home, host: str, port: int, profile_name: str
) -> tuple[StackRecord, Started | None]:
    """Starts a stack, waits until it is READY and writes the CLI profile.

    Returns:
        Its record, and how to work with it; None in place of that when it was up already.

    Raises:
        StackError: It could not be started; nothing of it is left running.
    """
    running = stack.read()
    if running and running.state in {"READY", "STARTING"} and processes.alive(running.supervisor):
        return _wait_ready(stack, None), None
    try:
        stack.create()
    except OSError as error:
        raise StackError(f"cannot write to {stack.path}: {error.strerror}") from None
    # Imported late: what they need is not needed to see that a stack is up.
    from lepton_local.account import save_admin_profile  # noqa: PLC0415  # see above
    from lepton_local.authority import Authority  # noqa: PLC0415  # see above

    # Here and not in the supervisor, so that the first password is never written down.
    authority = asyncio.run(Authority.open(stack, []))
    # A record from before would be taken for the new supervisor's.
    stack.forget()
    log = stack.log("supervisor")
    with log.open("ab") as output:
        supervisor = subprocess.Popen(
            [
                *(sys.executable, "-m", "lepton_local.supervisor", "--home", str(stack.path)),
                *("--gateway-host", host, "--gateway-port", str(port)),
            ],
            env=processes.base_environ(stack),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        record = _wait_ready(stack, supervisor)
        profile = asyncio.run(save_admin_profile(authority, stack, record, profile_name))
    except BaseException:
        # Our own supervisor, and not whoever else may hold this home: it ends what it started.
        if supervisor.poll() is None:
            supervisor.terminate()
            supervisor.wait(_STOP_TIMEOUT_SECONDS)
        raise
    return record, Started(authority.user, authority.password, profile)


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
            raise StackError(f"the stack could not be started: {record.error}")
        if supervisor is not None and supervisor.poll() is not None:
            lines = processes.last_lines(stack.log("supervisor"))
            raise StackError(f"the supervisor ended at its start; its log ends with:\n{lines}")
        time.sleep(_POLL_SECONDS)
    raise StackError(
        f"the stack is not ready after {_START_TIMEOUT_SECONDS:.0f} s; see the logs in {stack.logs}"
    )


def bring_down(stack: Home) -> bool:
    """Ends every process of a stack, and nothing else; False when there was none.

    Raises:
        StackError: Something of it could not be ended.
    """
    record = stack.read()
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
        raise StackError(f"could not end {', '.join(str(process.pid) for process in left)}")
    stack.forget()
    return found
