"""A stack that a command starts for itself, and stops whatever happens."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from lepton.cli.errors import message_of
from lepton.client import LeptonError as ClientError
from lepton_local.home import Home, StackRecord
from lepton_local.processes import handled
from lepton_local.stack import bring_down, bring_up
from lepton_mesh.errors import LeptonError

_INTERRUPTED = 130


def fresh_home(path: Path) -> Home:
    """The home of a stack that has never run; one that does is stopped and removed.

    From here on this process has a profile file of its own in it: such a stack must not change
    whom the user's commands call.
    """
    home = Home(path.absolute())
    os.environ["LEPTON_CONFIG"] = str(home.path / "config.yaml")
    bring_down(home)
    shutil.rmtree(home.path, ignore_errors=True)
    return home


@contextmanager
def own_stack(path: Path, profile: str, say: Callable[[str], None]) -> Iterator[StackRecord]:
    """Starts an empty stack on a free port, and stops it: at the end, on Ctrl-C and on SIGTERM.

    Args:
        path: Its directory, which is emptied first and left for its logs.
        profile: The profile that :func:`lepton.client.connect` then takes.
        say: Told what begins.

    Raises:
        LeptonError: It could not be started or stopped.
    """
    home = fresh_home(path)
    # SIGINT too: a shell's background job is started with it ignored.
    interrupt = signal.default_int_handler
    with handled(signal.SIGINT, interrupt), handled(signal.SIGTERM, interrupt):
        try:
            say("starting the stack")
            record, _ = bring_up(home, "127.0.0.1", 0, profile)
            yield record
        finally:
            # A second Ctrl-C, from someone impatient, would leave half of it running.
            with handled(signal.SIGINT, signal.SIG_IGN), handled(signal.SIGTERM, signal.SIG_IGN):
                say("stopping the stack")
                bring_down(home)


def run_command(command: click.Command, name: str) -> None:
    """Runs a command as the program; an expected failure is one line that ends in its reason."""
    try:
        command.main(standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"{name}: {message_of(error)}", err=True)
        sys.exit(error.exit_code)
    except (LeptonError, ClientError, OSError) as error:
        click.echo(f"{name}: {message_of(error)}", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(_INTERRUPTED)
