"""What every call of one method shares."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import grpc

from lepton_mesh.balancer.endpoint import Endpoint
from lepton_mesh.balancer.limits import HedgeDelay, RetryBudget
from lepton_mesh.balancer.pool import EndpointPool, rpc_error
from lepton_mesh.errors import Unavailable

MAX_ATTEMPTS = 4
BACKOFF_SECONDS = 0.05
"""Before the first retry where there is no other instance; doubles."""


@dataclass(slots=True)
class Method:
    """One method of the service, as a stub asked for it."""

    pool: EndpointPool
    budget: RetryBudget
    path: str
    serialize: Any
    deserialize: Any
    idempotent: bool
    """Whether a failed call may be repeated."""
    hedged: bool
    """Whether a slow call may be sent to a second instance as well."""
    wait_seconds: float
    """How long a call waits for an instance, unless it says wait_for_ready."""
    delay: HedgeDelay = field(default_factory=HedgeDelay)

    def may_repeat(self, error: grpc.aio.AioRpcError, attempts: int) -> bool:
        """Whether to try again after ``attempts``; spends a token if so."""
        return (
            self.idempotent
            and attempts < MAX_ATTEMPTS
            and error.code() is grpc.StatusCode.UNAVAILABLE
            and self.budget.take()
        )


@dataclass(frozen=True, slots=True)
class CallOptions:
    """What the caller passed beside the request."""

    deadline: float | None
    """Loop time."""
    passed: dict[str, Any]
    """Goes to the instance's channel as it is."""
    wait_for_ready: bool

    @classmethod
    def of(cls, timeout: float | None, wait_for_ready: bool | None, **passed: Any) -> CallOptions:
        deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout
        return cls(deadline, passed, bool(wait_for_ready))

    def remaining(self) -> float | None:
        """Seconds to the deadline, at least a millisecond; None without one."""
        if self.deadline is None:
            return None
        return max(0.001, self.deadline - asyncio.get_running_loop().time())

    def patience(self, wait_seconds: float) -> float | None:
        """Until when (loop time) to wait for an instance."""
        if self.wait_for_ready:
            return self.deadline
        limit = asyncio.get_running_loop().time() + wait_seconds
        return limit if self.deadline is None else min(limit, self.deadline)


def connection_closed(endpoint: Endpoint) -> grpc.aio.AioRpcError:
    """For a call whose channel was closed under it, which gRPC reports as a cancellation."""
    return rpc_error(
        Unavailable(f"the connection to {endpoint.address}, which left, was closed; try again")
    )
