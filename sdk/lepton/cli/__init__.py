"""The ``lepton`` command.

Results go to stdout, in the format that ``-o`` asks for; progress and messages go to
stderr, progress only on a terminal. Exit codes:

    0    done
    1    failed, such as a job that failed or a file that cannot be written
    2    wrong usage, a file or a profile that cannot be read, a request that is not valid
    3    not found
    4    a login or key that does not hold, or one that may not do this
    5    the server cannot be reached
    130  interrupted, or a question answered with no
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """Runs the command line; every expected failure is one line on stderr."""
    # gRPC writes C++ log lines to stderr for what we say in a sentence.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Its own resolver, c-ares, keeps a process that has resolved a name from ending for a second.
    os.environ.setdefault("GRPC_DNS_RESOLVER", "native")
    try:
        _run()
    except KeyboardInterrupt:
        # While modules are imported; where a command runs, click makes an Abort of it.
        sys.stderr.write("lepton: interrupted\n")
        sys.exit(130)


def _run() -> NoReturn:
    # Imported here: a Ctrl-C meanwhile is for main() to tell of.
    import click

    from lepton.cli.errors import exit_code_of, message_of
    from lepton.cli.root import ReaderGone, cli

    try:
        code = cli.main(prog_name="lepton", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()  # the help itself
        sys.exit(error.exit_code)
    except click.Abort as error:
        # Click makes one of a Ctrl-C, and of a question that was answered with no.
        interrupted = isinstance(error.__cause__, KeyboardInterrupt)
        click.echo(f"lepton: {'interrupted' if interrupted else 'aborted'}", err=True)
        sys.exit(130)
    except (ReaderGone, BrokenPipeError):
        # Whoever read our stdout has what it wanted, as in `lepton data list | head -1`.
        _drop_output()
        sys.exit(0)
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            raise
        click.echo(f"lepton: {message_of(error)}", err=True)
        if isinstance(error, OSError) and error.filename is None:
            _drop_output()
        sys.exit(code)


def _drop_output() -> None:
    """Drops what stdout could not take; Python would try once more at its end, and fail."""
    with suppress(OSError):  # raised where stdout is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
