"""The endpoints of one service, as the directory names them, and the choice among them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Set
from typing import TYPE_CHECKING, Any, Protocol

import grpc
from google.protobuf import any_pb2
from google.rpc import (
    code_pb2,
    error_details_pb2,
    status_pb2,
)

from lepton_mesh.balancer.endpoint import Endpoint
from lepton_mesh.connect import STREAM_GRACE_SECONDS
from lepton_mesh.errors import DOMAIN, Unavailable

if TYPE_CHECKING:
    from lepton_mesh.connect import Connect
    from lepton_mesh.discovery import Instance


class ServiceUnreachable(Unavailable):
    reason = "SERVICE_UNREACHABLE"


class InstanceSource(Protocol):
    """What the pool needs of a directory."""

    def instances(self, service: str) -> tuple[Instance, ...]: ...

    def subscribe(self, callback: Callable[[str], None]) -> Callable[[], None]: ...


class EndpointPool:
    """Keeps one endpoint per instance of ``service``; made inside a running event loop."""

    def __init__(
        self, directory: InstanceSource, service: str, connect: Connect, drain_seconds: float
    ) -> None:
        self.service = service
        self._directory = directory
        self._connect = connect
        self._drain_seconds = drain_seconds
        self._endpoints: dict[tuple[str, str], Endpoint] = {}
        self._successors: set[Endpoint] = set()
        self._changed = asyncio.Event()
        self._closed = False
        self._background: set[asyncio.Task[None]] = set()
        self._unsubscribe = directory.subscribe(self._on_directory)
        self._follow()

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(self._endpoints.values())

    def pick(self, avoid: Set[Endpoint] = frozenset(), *, strict: bool = False) -> Endpoint | None:
        """The better of two connected endpoints; None when there is none.

        Ejected ones are taken when there is no other, and so are those in
        ``avoid`` unless ``strict``.
        """
        ready = [endpoint for endpoint in self._endpoints.values() if endpoint.ready]
        fresh = [endpoint for endpoint in ready if endpoint not in avoid] if avoid else ready
        if not fresh and strict:
            return None
        pool = [endpoint for endpoint in fresh if not endpoint.ejected] or fresh or ready
        if len(pool) < 2:
            return pool[0] if pool else None
        one, other = random.sample(pool, 2)
        return one if one.cost <= other.cost else other

    async def take(self, deadline: float | None, avoid: Set[Endpoint] = frozenset()) -> Endpoint:
        """The endpoint to call, waiting for one until ``deadline`` (loop time).

        Raises:
            grpc.aio.AioRpcError: UNAVAILABLE, with reason SERVICE_UNREACHABLE.
        """
        while (endpoint := self.pick(avoid)) is None:
            if self._closed:
                raise rpc_error(
                    ServiceUnreachable(
                        f"the channel to service {self.service!r} is closed; the process ends",
                        service=self.service,
                    )
                )
            changed = self._changed
            try:
                async with asyncio.timeout_at(deadline):
                    await changed.wait()
            except TimeoutError:
                raise self.unreachable() from None
        return endpoint

    async def wait_for_change(self) -> None:
        """Returns when an endpoint came, went, or changed its state."""
        changed = self._changed
        await changed.wait()

    def unreachable(self) -> grpc.aio.AioRpcError:
        """Why there is no endpoint, and what to do."""
        known = [endpoint.address for endpoint in self._endpoints.values()]
        if known:
            message = (
                f"no instance of service {self.service!r} accepts connections "
                f"(tried {', '.join(known)}); read its log, and check that its certificate is valid"
            )
        else:
            message = (
                f"no instance of service {self.service!r} is registered; "
                "start it, and check that it reaches etcd"
            )
        return rpc_error(ServiceUnreachable(message, service=self.service))

    async def refresh(self) -> None:
        """Opens every channel anew; each old one goes when its successor is connected."""
        for key, old in list(self._endpoints.items()):
            successor = Endpoint(old.address, self._connect, self._notify)
            self._successors.add(successor)
            self._spawn(self._replace(key, old, successor))

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._unsubscribe()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        endpoints = [*self._endpoints.values(), *self._successors]
        self._endpoints.clear()
        self._successors.clear()
        self._notify()
        await asyncio.gather(*(endpoint.close() for endpoint in endpoints))

    def _on_directory(self, service: str) -> None:
        if service == self.service:
            self._follow()

    def _follow(self) -> None:
        wanted = {
            (one.instance, one.address): one for one in self._directory.instances(self.service)
        }
        for key in self._endpoints.keys() - wanted:
            self._spawn(self._endpoints.pop(key).drain(self._drain_seconds))
        for key in wanted - self._endpoints.keys():
            self._endpoints[key] = Endpoint(key[1], self._connect, self._notify)
        self._notify()

    async def _replace(self, key: tuple[str, str], old: Endpoint, successor: Endpoint) -> None:
        """Waits for ``successor``, and lets it take the place of ``old`` if that is still there."""
        while not successor.connected and self._endpoints.get(key) is old:
            await self._changed.wait()
        self._successors.discard(successor)
        if self._endpoints.get(key) is old:
            self._endpoints[key] = successor
            self._notify()
            # The instance is still there: a long download goes on over the old connection.
            await old.drain(STREAM_GRACE_SECONDS)
        else:
            await successor.close()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def rpc_error(error: Unavailable) -> grpc.aio.AioRpcError:
    """A domain error raised on the client's side, in the form in which servers send it."""
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata)
    detail = any_pb2.Any()
    detail.Pack(info)
    status = status_pb2.Status(code=code_pb2.UNAVAILABLE, message=error.message, details=[detail])
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), trailing, error.message
    )
