"""What a failure becomes on the command line."""

from __future__ import annotations

import click

EXIT_CODES = {
    "CHECKPOINT_MISSING": 2,
    "CODE_INVALID": 2,
    "DATASET_INVALID": 2,
    "DISK_FULL": 1,
    "DOWNLOAD_DAMAGED": 1,
    "ENDPOINT_FAILED": 1,
    "ENDPOINT_INVALID": 2,
    "EVALUATION_UNAVAILABLE": 2,
    "FILE_INVALID": 2,
    "FILE_UNREADABLE": 2,
    "FILE_UNWRITABLE": 1,
    "INPUT_INVALID": 2,
    "JOB_SPEC_INVALID": 2,
    "MODEL_INVALID": 2,
    "PACKAGE_MISSING": 1,
    "PROFILE_INVALID": 2,
    "PROFILE_NOT_FOUND": 2,
    "TENSOR_INVALID": 2,
    "USAGE": 2,
}
"""Exit code of each failure that no server was needed for, by its reason."""


class CommandError(click.ClickException):
    """A failure of the command itself, with a reason that EXIT_CODES has."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class InputError(CommandError):
    """A value that a person gave is not what it should be; exit code 2."""

    def __init__(self, message: str, reason: str = "INPUT_INVALID") -> None:
        super().__init__(message, reason)


class FileError(InputError):
    """A file that a person gave does not hold what it should; exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "FILE_INVALID")


def exit_code_of(error: Exception) -> int | None:
    """The exit code for an expected failure; None for a bug, which deserves its traceback."""
    if isinstance(error, CommandError):
        return EXIT_CODES[error.reason]
    if isinstance(error, click.ClickException):
        return error.exit_code
    # Imported here: gRPC takes longer to import than most commands run.
    from lepton.client import (
        ApiError,
        AuthenticationError,
        InvalidRequestError,
        LeptonError,
        NotFoundError,
        UnavailableError,
    )

    if isinstance(error, OSError):
        return EXIT_CODES[_reason_of_system(error)]
    if isinstance(error, LeptonError) and not isinstance(error, ApiError):
        return EXIT_CODES[error.reason]
    codes: tuple[tuple[type[Exception], int], ...] = (
        (NotFoundError, 3),
        (AuthenticationError, 4),
        (UnavailableError, 5),
        (InvalidRequestError, 2),
        (ApiError, 1),
    )
    return next((code for kind, code in codes if isinstance(error, kind)), None)


def message_of(error: Exception) -> str:
    """One line that names the thing and the remedy, ends in the reason, and drives no terminal.

    Args:
        error: One of click's, or one that :func:`exit_code_of` knows.
    """
    text = " ".join(_text_of(error).split())
    reason = _reason_of(error)
    return printable(f"{text} [{reason}]" if reason else text)


def printable(text: str) -> str:
    """Text without what would drive a terminal."""
    return "".join(each for each in text if each.isprintable())


def _text_of(error: Exception) -> str:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{error.format_message().rstrip('.')}; see `{error.ctx.command_path} --help`"
    if isinstance(error, click.ClickException):
        return error.format_message()
    from lepton.client import UnavailableError

    if isinstance(error, UnavailableError):
        return _way_there(error.message)
    if not isinstance(error, OSError):
        return str(error)
    if not error.filename:
        return f"standard output: {error.strerror or error}; not all of the result was written"
    return f"{error.filename}: {error.strerror}"


def _reason_of(error: Exception) -> str:
    """Empty for an error of click's that an installed package's command raises without one."""
    if isinstance(error, click.UsageError):
        return "USAGE"
    if isinstance(error, OSError):
        return _reason_of_system(error)
    return str(getattr(error, "reason", ""))


def _reason_of_system(error: OSError) -> str:
    """The reason for a file, or without a name standard output, that failed in a call of ours."""
    from lepton.client.errors import DISK_FULL

    if error.errno in DISK_FULL:
        return "DISK_FULL"
    return "FILE_UNREADABLE" if error.filename else "FILE_UNWRITABLE"


_NOT_RESOLVED = "errors resolving "
"""How gRPC begins, whichever of its resolvers asked; the address and ``: [details]`` follow."""


def _way_there(message: str) -> str:
    """What gRPC says of a connection that failed, for people."""
    if "CERTIFICATE_VERIFY_FAILED" in message or "Peer name" in message:
        return (
            "the gateway's certificate is not one that the profile's CA file vouches for, or is "
            "for another host; log in again with --ca-file, or run `lepton up` for a local stack"
        )
    if "failed to connect" in message or "Connection refused" in message:
        cause = message.rpartition(": ")[2].strip()
        return f"the gateway cannot be reached ({cause}); is it up? `lepton status` tells"
    if message.startswith(_NOT_RESOLVED):
        address = message.removeprefix(_NOT_RESOLVED).partition(": [")[0]
        return (
            f"no machine is known by the name in {address}; check it and this machine's network, "
            "or log in to another address"
        )
    if message == "Deadline Exceeded":
        return "the gateway did not answer in time; is it up? `lepton status` tells"
    return message
