"""What the SDK raises.

LeptonError
├── ApiError                 the server, or the way to it, said no
│   ├── NotFoundError
│   ├── AuthenticationError  UNAUTHENTICATED, PERMISSION_DENIED
│   ├── UnavailableError     UNAVAILABLE, DEADLINE_EXCEEDED
│   └── InvalidRequestError  INVALID_ARGUMENT, OUT_OF_RANGE, FAILED_PRECONDITION, ALREADY_EXISTS
├── ProfileError             no profile, no address, a profile that cannot be read or written
├── TransferError            a local file that cannot be read, written or trusted
├── SpecError                a job spec or an endpoint that cannot be read
├── TensorError              an array or a tensor that the protocol cannot carry
├── ModelFileError           a file that is no model, or one that cannot be served
├── EvaluationError          a version without what was asked for, or two that cannot be compared
└── EndpointFailedError      an endpoint that did not come up
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

Made = TypeVar("Made")

Reason = Literal[
    "CODE_INVALID",
    "DATASET_INVALID",
    "DISK_FULL",
    "DOWNLOAD_DAMAGED",
    "ENDPOINT_FAILED",
    "ENDPOINT_INVALID",
    "EVALUATION_UNAVAILABLE",
    "FILE_UNREADABLE",
    "FILE_UNWRITABLE",
    "JOB_SPEC_INVALID",
    "MODEL_INVALID",
    "PACKAGE_MISSING",
    "PROFILE_INVALID",
    "PROFILE_NOT_FOUND",
    "TENSOR_INVALID",
]
"""Why the SDK fails without asking a server. A server that finds the same fault has the same name
for it; docs/errors.md tells what to do about each."""

DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What the system calls a disk, or a user's share of it, without room."""


class LeptonError(Exception):
    """Base of all errors of the SDK; its text names the thing and the remedy.

    Attributes:
        reason: UPPER_SNAKE key, for programs to switch on.
    """

    reason: str

    def __init__(self, message: str, *, reason: Reason | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class ProfileError(LeptonError):
    """Where to call, or as whom, is not known."""

    reason = "PROFILE_INVALID"


class TransferError(LeptonError):
    """A local file cannot be read or written, or its bytes are not what they should be."""

    reason = "FILE_UNREADABLE"


class SpecError(LeptonError):
    """A job spec or an endpoint that cannot be read: a field that does not exist, for one."""

    reason = "JOB_SPEC_INVALID"
    rest: Message | None = None
    """What could be read; in it a server may find more that is wrong."""


class TensorError(LeptonError):
    """An array or a tensor that the protocol cannot carry."""

    reason = "TENSOR_INVALID"


class ModelFileError(LeptonError):
    """A file is not a model, or one that no endpoint can serve."""

    reason = "MODEL_INVALID"


class EvaluationError(LeptonError):
    """A version has no such evaluation or file, or two versions cannot be compared."""

    reason = "EVALUATION_UNAVAILABLE"


class EndpointFailedError(LeptonError):
    """An endpoint could not be brought up, or not in time."""

    reason = "ENDPOINT_FAILED"


class ApiError(LeptonError):
    """A call failed.

    Attributes:
        code: The gRPC status.
        reason: UPPER_SNAKE key from ``google.rpc.ErrorInfo``; the status name without one.
        message: What the server said; names the thing and the remedy.
        metadata: Machine-readable details.
        said_by_server: False where nobody answered and the transport reports its own failure.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        metadata: dict[str, str],
        *,
        said_by_server: bool = True,
    ) -> None:
        super().__init__(message)
        self.said_by_server = said_by_server
        self.code = code
        self.reason = reason
        self.message = message
        self.metadata = metadata


class NotFoundError(ApiError):
    """The thing named does not exist in the caller's workspace."""


class AuthenticationError(ApiError):
    """No credential, one that does not hold, or one that may not do this."""


class UnavailableError(ApiError):
    """The server cannot be reached, or not in time; the same call may succeed later."""


class InvalidRequestError(ApiError):
    """The request is wrong, or not right for the state that things are in."""


_CLASSES: dict[grpc.StatusCode, type[ApiError]] = {
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.UNAUTHENTICATED: AuthenticationError,
    grpc.StatusCode.PERMISSION_DENIED: AuthenticationError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: UnavailableError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidRequestError,
    grpc.StatusCode.ALREADY_EXISTS: InvalidRequestError,
}


def from_rpc_error(error: grpc.RpcError) -> ApiError:
    """The :class:`ApiError` that says what a gRPC error carries."""
    code = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    message = (error.details() if isinstance(error, grpc.Call) else None) or code.name
    reason, metadata, kind = str(code.name), dict[str, str](), _CLASSES.get(code, ApiError)
    said_by_server = False
    status = _status(error)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            reason, metadata, said_by_server = info.reason, dict(info.metadata), True
    if code is grpc.StatusCode.INTERNAL and not said_by_server:
        # A service that dies in mid-stream: the transport says so, and without an ErrorInfo.
        kind, message = UnavailableError, f"the connection broke: {message}"
    return kind(code, reason, message, metadata, said_by_server=said_by_server)


def _status(error: grpc.RpcError) -> Any:
    if not isinstance(error, grpc.Call):
        return None
    try:
        return rpc_status.from_call(error)
    except ValueError:  # the details disagree with the status: a proxy rewrote one of them
        return None


@contextmanager
def translated() -> Iterator[None]:
    """Turns a ``grpc.RpcError`` raised in the block into an :class:`ApiError`."""
    try:
        yield
    except grpc.RpcError as error:
        raise from_rpc_error(error) from None


def unless_it_exists(create: Callable[[], Made]) -> Made | None:
    """What ``create`` calls into being; None where somebody else made it meanwhile.

    Raises:
        ApiError: It cannot be made for another reason.
    """
    try:
        with translated():
            return create()
    except ApiError as error:
        if error.code is not grpc.StatusCode.ALREADY_EXISTS:
            raise
        return None


def unwritable(path: Path, error: OSError) -> TransferError:
    """What to raise where a file or a folder cannot be written."""
    why = error.strerror or error
    if error.errno in DISK_FULL:
        return TransferError(
            f"cannot write {path}: {why}; free space, then do the same again",
            reason="DISK_FULL",
        )
    return TransferError(f"cannot write {path}: {why}", reason="FILE_UNWRITABLE")
