"""How the programs of ``bench`` end when somebody stops them, or when they fail as expected."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType

import click

from bench.load import LoadError
from lepton.cli.errors import message_of
from lepton.client import LeptonError as ClientError
from lepton_local.processes import handled
from lepton_mesh.errors import LeptonError

_INTERRUPTED = 130


def run(main: Callable[[], None]) -> None:
    """Runs a program; on Ctrl-C or SIGTERM it unwinds, and exits with 130.

    A failure that is expected is one line on stderr that ends in its reason, and 1.

    What it started is to be ended by its ``finally`` and ``with`` blocks. Processes that a
    terminal would send its Ctrl-C as well belong in a session of their own.
    """
    # A handler of ours, and not Python's: asyncio replaces that one, and then lets code that
    # awaits nothing, such as a round of load, go on to its end.
    with handled(signal.SIGINT, _interrupt), handled(signal.SIGTERM, _interrupt):
        try:
            main()
        except KeyboardInterrupt:
            sys.stderr.write("bench: interrupted\n")
            sys.exit(_INTERRUPTED)
        except (LeptonError, ClientError, LoadError, click.ClickException) as error:
            sys.exit(f"bench: {message_of(error)}")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    # A second one, from someone impatient, would leave half of it running.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
