"""LeptonError <-> ``google.rpc.Status``, in both directions.

A status travels in the trailing metadata ``grpc-status-details-bin`` and always carries a
``google.rpc.ErrorInfo`` (AIP-193); a retryable one carries a ``RetryInfo`` as well.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2
from google.rpc import (
    error_details_pb2,
    status_pb2,
)

from lepton_mesh.errors import (
    DOMAIN,
    METADATA_CHARACTERS,
    Aborted,
    AlreadyExists,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    LeptonError,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    catalogue,
)

DETAILS_KEY = "grpc-status-details-bin"

# gRPC refuses trailers beyond 8 KiB by default, and the message goes out twice: once
# percent-encoded, once in the details, which are base64.
_MESSAGE_BYTES = 6000
"""What both take: 2,500 characters of ASCII."""

STATUS_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

_KINDS: dict[int, type[LeptonError]] = {
    kind.wire.grpc_code: kind
    for kind in (
        InvalidArgument,
        DeadlineExceeded,
        NotFound,
        AlreadyExists,
        PermissionDenied,
        ResourceExhausted,
        FailedPrecondition,
        Aborted,
        OutOfRange,
        Unimplemented,
        Internal,
        Unavailable,
        DataLoss,
        Unauthenticated,
    )
}


def public_message(error: LeptonError) -> str:
    """The error's message, cut to what fits into trailers."""
    room: float = _MESSAGE_BYTES
    for index, character in enumerate(error.message):
        size = len(character.encode(errors="replace"))
        plain = " " <= character <= "~" and character != "%"
        room -= (size if plain else 3 * size) + size * 4 / 3
        if room < 0:
            return error.message[: index - 1] + "…"
    return error.message


def to_status(error: LeptonError) -> status_pb2.Status:
    """The status that callers see."""
    status = status_pb2.Status(code=error.wire.grpc_code, message=public_message(error))
    info = error_details_pb2.ErrorInfo(
        reason=error.reason,
        domain=DOMAIN,
        metadata={key: _cut(value, METADATA_CHARACTERS) for key, value in error.metadata.items()},
    )
    status.details.add().Pack(info)
    if error.wire.retryable:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(round(error.retry_after_seconds * 1000))
        status.details.add().Pack(retry)
    return status


def from_rpc_error(error: grpc.RpcError, service: str = "") -> LeptonError:
    """What a called service's answer means here: its kind, reason, message and metadata.

    An answer without ErrorInfo did not come from our code but from gRPC itself (a broken
    connection, a passed deadline), so its text is not handed on.
    """
    call: Any = error  # an AioRpcError; grpc's stubs give RpcError no methods
    code: int = call.code().value[0]
    info, delay = _details(call)
    if info is not None:
        return _rebuild(code, info, call.details() or "", delay)
    if code == grpc.StatusCode.CANCELLED.value[0]:
        code = Unavailable.wire.grpc_code
    kind = _KINDS.get(code, Internal)
    if kind in (Internal, DataLoss, Unauthenticated, PermissionDenied):
        # None of these is the caller's doing when gRPC itself says so.
        return Internal("internal error")
    name = f"service '{service}'" if service else "the service"
    text = {
        Unavailable: f"{name} cannot be reached; try again in a moment",
        DeadlineExceeded: f"{name} did not answer in time; try again or allow more time",
        ResourceExhausted: f"{name} refused the message: larger than it accepts, or too many calls",
        Unimplemented: f"{name} does not know this method; bring both to the same version",
    }.get(kind, f"{name} refused the call")
    return kind(text, **({"service": service} if service else {}))


def _rebuild(
    code: int, info: error_details_pb2.ErrorInfo, message: str, delay: float | None
) -> LeptonError:
    known = catalogue().get(info.reason)
    kind = known if known and known.wire.grpc_code == code else _KINDS.get(code, Internal)
    error = kind.__new__(kind)  # subclasses may want other arguments than what travelled
    LeptonError.__init__(error, message, **dict(info.metadata))
    if kind.reason != info.reason:
        # The reason of an error class that only the other service has.
        object.__setattr__(error, "reason", info.reason)
    if delay is not None:
        error.retry_after_seconds = delay
    return error


def _details(call: Any) -> tuple[error_details_pb2.ErrorInfo | None, float | None]:
    """The ErrorInfo of our own domain and the RetryInfo's seconds, where there are any."""
    found: error_details_pb2.ErrorInfo | None = None
    delay: float | None = None
    for key, value in call.trailing_metadata() or ():
        if key != DETAILS_KEY:
            continue
        try:
            details = list(status_pb2.Status.FromString(value).details)
        except Exception:  # DecodeError differs between protobuf's implementations
            return None, None
        for detail in details:
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if _unpack(detail, info) and info.domain == DOMAIN:
                found = info
            elif _unpack(detail, retry):
                delay = retry.retry_delay.ToTimedelta().total_seconds()
    return found, delay


def _unpack(detail: any_pb2.Any, into: Any) -> bool:
    return bool(detail.Unpack(into))


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
