"""Domain errors, and the one table that says what each becomes on the wire.

    LeptonError
    ├── InvalidArgument      the request is wrong whatever the state        400
    ├── OutOfRange           past the end of something valid                400
    ├── Unauthenticated      no credential, or one that does not hold       401
    ├── PermissionDenied     known, and not allowed                         403
    ├── NotFound                                                            404
    ├── AlreadyExists                                                       409
    ├── Aborted              lost a race: read again, then retry            409
    ├── FailedPrecondition   right request, wrong state                     400
    ├── ResourceExhausted    a limit, a quota, a full queue or disk         429
    ├── Unimplemented                                                       501
    ├── Unavailable          try again in a moment                          503
    ├── DeadlineExceeded                                                    504
    ├── DataLoss             stored bytes are not what was stored           500
    └── Internal             a bug of ours                                  500

Domain code raises a subclass of one of these kinds and never sees gRPC::

    class DatasetNotFound(NotFound):
        reason = "DATASET_NOT_FOUND"

    raise DatasetNotFound("dataset 'mnist' does not exist; `lepton data list` shows those that do",
                          dataset="mnist")

Interceptors and the REST adapters translate it, once, with :data:`KINDS`
(status codes after google.rpc.Code, HTTP after its documented mapping).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

DOMAIN = "lepton.dev"
"""The ``domain`` of every ``google.rpc.ErrorInfo`` this project sends."""
METADATA_CHARACTERS = 200
"""What travels of one value of an error's metadata; the rest is cut off."""


@dataclass(frozen=True, slots=True)
class Wire:
    """What one kind of error becomes on the wire."""

    grpc_code: int
    """google.rpc.Code, the integer value of ``grpc.StatusCode``."""
    grpc_name: str
    http_status: int
    retryable: bool
    """Whether the same request may succeed unchanged if sent again."""


class LeptonError(Exception):
    """Base of every error that may be shown to a caller.

    Args:
        message: Names the thing and the remedy; it is public.
        metadata: Machine-readable details; public too, so never a secret.
    """

    reason: ClassVar[str] = "INTERNAL"
    """UPPER_SNAKE, unique in the project: the key that programs switch on."""
    wire: ClassVar[Wire] = Wire(13, "INTERNAL", 500, False)
    retry_after_seconds: float = 1.0
    """What a caller is told to wait before it tries again, where ``wire.retryable``."""

    def __init__(self, message: str, **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = {key: str(value) for key, value in metadata.items()}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "reason" in cls.__dict__:
            other = _CATALOGUE.setdefault(cls.reason, cls)
            if other.__qualname__ != cls.__qualname__ or other.__module__ != cls.__module__:
                raise TypeError(f"reason {cls.reason} is taken by {other.__qualname__}")


_CATALOGUE: dict[str, type[LeptonError]] = {}


def catalogue() -> dict[str, type[LeptonError]]:
    """Every reason that has been imported, with the error that carries it."""
    return dict(_CATALOGUE)


class InvalidArgument(LeptonError):
    reason = "INVALID_ARGUMENT"
    wire = Wire(3, "INVALID_ARGUMENT", 400, False)


class DeadlineExceeded(LeptonError):
    reason = "DEADLINE_EXCEEDED"
    wire = Wire(4, "DEADLINE_EXCEEDED", 504, True)


class NotFound(LeptonError):
    reason = "NOT_FOUND"
    wire = Wire(5, "NOT_FOUND", 404, False)


class AlreadyExists(LeptonError):
    reason = "ALREADY_EXISTS"
    wire = Wire(6, "ALREADY_EXISTS", 409, False)


class PermissionDenied(LeptonError):
    reason = "PERMISSION_DENIED"
    wire = Wire(7, "PERMISSION_DENIED", 403, False)


class ResourceExhausted(LeptonError):
    reason = "RESOURCE_EXHAUSTED"
    wire = Wire(8, "RESOURCE_EXHAUSTED", 429, True)


class FailedPrecondition(LeptonError):
    reason = "FAILED_PRECONDITION"
    wire = Wire(9, "FAILED_PRECONDITION", 400, False)


class Aborted(LeptonError):
    reason = "ABORTED"
    wire = Wire(10, "ABORTED", 409, True)


class OutOfRange(LeptonError):
    reason = "OUT_OF_RANGE"
    wire = Wire(11, "OUT_OF_RANGE", 400, False)


class Unimplemented(LeptonError):
    reason = "UNIMPLEMENTED"
    wire = Wire(12, "UNIMPLEMENTED", 501, False)


class Internal(LeptonError):
    reason = "INTERNAL"
    wire = Wire(13, "INTERNAL", 500, False)


class Unavailable(LeptonError):
    reason = "UNAVAILABLE"
    wire = Wire(14, "UNAVAILABLE", 503, True)


class DataLoss(LeptonError):
    reason = "DATA_LOSS"
    wire = Wire(15, "DATA_LOSS", 500, False)


class Unauthenticated(LeptonError):
    reason = "UNAUTHENTICATED"
    wire = Wire(16, "UNAUTHENTICATED", 401, False)
