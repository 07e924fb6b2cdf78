"""``grpc.health.v1.Health`` (the gRPC health checking protocol).

Unlike grpcio-health-checking's servicer this one ends its watches when the server drains, so
that a client that watches does not hold up the stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from lepton_mesh.errors import NotFound

Status = health_pb2.HealthCheckResponse


class ServiceUnknown(NotFound):
    reason = "HEALTH_SERVICE_UNKNOWN"


class Health(health_pb2_grpc.HealthServicer):
    """NOT_SERVING until :meth:`serving`, and again after :meth:`not_serving`."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = {"", *services}
        self._status: Any = Status.NOT_SERVING  # the enum's type has another name in each stub
        self._changed = asyncio.Event()
        self._drained = False

    def serving(self) -> None:
        self._set(Status.SERVING)

    def available(self, available: bool) -> None:
        """Whether what answers the calls is there: it may go and come back, until the drain."""
        if not self._drained:
            self._set(Status.SERVING if available else Status.NOT_SERVING)

    def not_serving(self) -> None:
        """For good: watches end after they said so."""
        self._drained = True
        self._set(Status.NOT_SERVING)

    async def Check(  # noqa: N802  gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._services:
            names = ", ".join(sorted(self._services - {""}))
            raise ServiceUnknown(
                f"service '{request.service}' is not served here; leave the name empty"
                + (f", or ask for one of {names}" if names else ""),
                service=request.service,
            )
        return Status(status=self._status)

    async def Watch(  # noqa: N802  gRPC's name
        self, request: health_pb2.HealthCheckRequest, context: Any
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        if request.service not in self._services:
            yield Status(status=Status.SERVICE_UNKNOWN)
        while True:
            changed = self._changed
            if request.service in self._services:
                yield Status(status=self._status)
            if self._drained:
                return
            await changed.wait()

    def _set(self, status: int) -> None:
        self._status = status
        self._changed.set()
        self._changed = asyncio.Event()
