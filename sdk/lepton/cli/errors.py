"""What a failure becomes on the command line."""

from __future__ import annotations

import click


class InputError(click.ClickException):
    """A file or a value that a person gave is not what it should be; exit code 2."""

    exit_code = 2


def exit_code_of(error: Exception) -> int | None:
    """The exit code for an expected failure; None for a bug, which deserves its traceback."""
    # Imported here: gRPC takes longer to import than most commands run.
    from lepton.client import (
        AuthenticationError,
        EvaluationError,
        InvalidRequestError,
        LeptonError,
        ModelFileError,
        NotFoundError,
        ProfileError,
        SpecError,
        TensorError,
        TransferError,
        UnavailableError,
    )

    codes: tuple[tuple[type[Exception], int], ...] = (
        (NotFoundError, 3),
        (AuthenticationError, 4),
        (ProfileError, 4),
        (UnavailableError, 5),
        (InvalidRequestError, 2),
        (SpecError, 2),
        (TensorError, 2),
        (EvaluationError, 2),
        (ModelFileError, 2),
        (TransferError, 2),
        (LeptonError, 1),
        (OSError, 2),
    )
    return next((code for kind, code in codes if isinstance(error, kind)), None)


def message_of(error: Exception) -> str:
    """One line that names the thing and the remedy, and drives no terminal."""
    from lepton.cli.output import printable
    from lepton.client import ApiError, UnavailableError

    if isinstance(error, UnavailableError):
        text = _way_there(error.message)
    elif isinstance(error, OSError) and error.filename:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, OSError):
        text = f"standard output: {error.strerror or error}"
    else:
        text = str(error)
    text = " ".join(text.split())
    return printable(f"{text} [{error.reason}]" if isinstance(error, ApiError) else text)


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
    if message == "Deadline Exceeded":
        return "the gateway did not answer in time; is it up? `lepton status` tells"
    return message
