"""What can go wrong with etcd, and the one place that reads its status codes.

LeptonError
├── EtcdUnavailable   no endpoint answers; a change that was sent may or may not have happened
├── EtcdDenied        the certificate's name has no right to do it
├── LeaseLost         the lease ended or was never there
└── EtcdError         anything else; a bug of ours or of the set-up
"""

from __future__ import annotations

import grpc

from lepton_mesh.errors import Internal, LeptonError, NotFound, PermissionDenied, Unavailable


class EtcdUnavailable(Unavailable):
    reason = "ETCD_UNAVAILABLE"


class EtcdDenied(PermissionDenied):
    reason = "ETCD_DENIED"


class LeaseLost(NotFound):
    reason = "ETCD_LEASE_LOST"


class EtcdError(Internal):
    reason = "ETCD_ERROR"


def translate(error: grpc.aio.AioRpcError, method: str, endpoint: str) -> LeptonError:
    """The error of ours for what etcd answered to ``method``."""
    details = error.details() or ""
    code = error.code()
    about = f"etcd at {endpoint} answered {method} with {code.name}: {details}"
    if code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
        return EtcdUnavailable(f"{about}; check that etcd runs", endpoint=endpoint)
    # etcd says INVALID_ARGUMENT "user name is empty" to a certificate without a name.
    if code in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED} or (
        "user name is empty" in details
    ):
        return EtcdDenied(
            f"{about}; the common name of the client's certificate must be an etcd user "
            "whose role covers the key",
            endpoint=endpoint,
        )
    if code is grpc.StatusCode.NOT_FOUND and "lease" in details:
        return LeaseLost(f"{about}; ask for a new lease")
    return EtcdError(about, endpoint=endpoint)


def was_not_applied(error: grpc.aio.AioRpcError) -> bool:
    """Whether etcd refused the request before doing any of it, for a passing reason.

    The users changed between its check and its turn: etcd asks for another try.
    """
    return "revision of auth store is old" in (error.details() or "")
