"""Keys and leases of etcd. What lives there can be rebuilt: the record is in databases."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING

import grpc

from lepton_mesh.connect import being_cancelled
from lepton_mesh.etcd.errors import (
    EtcdError,
    EtcdUnavailable,
    LeaseLost,
    translate,
)
from lepton_mesh.etcd.keys import Listing, prefix_end, to_key_value
from lepton_mesh.etcd.transport import Transport
from lepton_mesh.etcd.v3 import etcd_pb2 as pb
from lepton_mesh.etcd.watch import Watch, WatchBatch

if TYPE_CHECKING:
    from lepton_mesh.connect import Connect


class EtcdClient:
    """A client of one etcd cluster.

    Reads, lease renewals and revocations are tried again until ``timeout_seconds``;
    a write is sent once, on a connection that stands. Methods raise the errors of
    :mod:`lepton_mesh.etcd.errors`.

    Args:
        endpoints: ``host:port`` of each member.
        connect: Opens a channel (mutual TLS; etcd's user is the certificate's common name).
        timeout_seconds: How long a call may take with all its attempts.
    """

    def __init__(
        self, endpoints: Sequence[str], connect: Connect, timeout_seconds: float = 10.0
    ) -> None:
        self.transport = Transport(endpoints, connect)
        self.timeout_seconds = timeout_seconds

    async def range_prefix(self, prefix: str) -> Listing:
        """Every key that begins with ``prefix``, in byte order."""
        first = prefix.encode()
        response = await self.transport.unary(
            "/etcdserverpb.KV/Range",
            pb.RangeRequest(key=first, range_end=prefix_end(first)),
            pb.RangeResponse,
            safe=True,
            timeout_seconds=self.timeout_seconds,
        )
        return Listing(
            tuple(to_key_value(kv) for kv in response.kvs),
            response.header.revision,
            response.header.cluster_id,
        )

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Writes the key; returns the store's revision after it.

        Raises:
            LeaseLost: There is no such lease.
        """
        response = await self.transport.unary(
            "/etcdserverpb.KV/Put",
            pb.PutRequest(key=key.encode(), value=value, lease=lease),
            pb.PutResponse,
            safe=False,
            timeout_seconds=self.timeout_seconds,
        )
        return response.header.revision

    async def delete(self, key: str) -> bool:
        """Deletes the key; returns whether it existed."""
        response = await self.transport.unary(
            "/etcdserverpb.KV/DeleteRange",
            pb.DeleteRangeRequest(key=key.encode()),
            pb.DeleteRangeResponse,
            safe=False,
            timeout_seconds=self.timeout_seconds,
        )
        return response.deleted > 0

    async def lease_grant(self, ttl_seconds: int) -> int:
        """A new lease. An answer that is lost leaves a lease behind that ends by itself."""
        response = await self.transport.unary(
            "/etcdserverpb.Lease/LeaseGrant",
            pb.LeaseGrantRequest(TTL=ttl_seconds),
            pb.LeaseGrantResponse,
            safe=True,
            timeout_seconds=self.timeout_seconds,
        )
        if response.error:
            raise EtcdError(f"etcd grants no lease: {response.error}")
        return response.ID

    async def lease_keepalive(self, lease: int, timeout_seconds: float = 3.0) -> int:
        """Renews the lease once; returns the seconds it has from now.

        Raises:
            LeaseLost: The lease is gone, and its keys with it.
            EtcdUnavailable: No answer within ``timeout_seconds``; the lease may still stand.
        """
        method = "/etcdserverpb.Lease/LeaseKeepAlive"
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        endpoint, channel = await self.transport.ready(deadline)
        # A stream by etcd's definition; one request and one answer of it are enough.
        renew: grpc.aio.StreamStreamMultiCallable[
            pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse
        ] = channel.stream_stream(
            method,
            request_serializer=pb.LeaseKeepAliveRequest.SerializeToString,
            response_deserializer=pb.LeaseKeepAliveResponse.FromString,
        )
        call = renew(timeout=max(0.05, deadline - asyncio.get_running_loop().time()))
        try:
            await call.write(pb.LeaseKeepAliveRequest(ID=lease))
            await call.done_writing()
            response = await call.read()
        except grpc.aio.AioRpcError as error:
            self.transport.demote(endpoint)
            raise translate(error, method, endpoint) from error
        except asyncio.CancelledError:
            if being_cancelled():
                raise
            raise EtcdUnavailable(f"the connection to etcd at {endpoint} was closed") from None
        except asyncio.InvalidStateError as error:  # written to a stream that had ended
            raise EtcdUnavailable(f"etcd at {endpoint} ended the renewal") from error
        finally:
            call.cancel()
        if not isinstance(response, pb.LeaseKeepAliveResponse):
            raise EtcdUnavailable(f"etcd at {endpoint} ended the renewal without an answer")
        if response.TTL <= 0:
            raise LeaseLost(f"lease {lease:x} is gone; ask for a new one")
        return response.TTL

    async def lease_revoke(self, lease: int, timeout_seconds: float | None = None) -> None:
        """Ends the lease and deletes its keys; one that is gone already is no error."""
        try:
            await self.transport.unary(
                "/etcdserverpb.Lease/LeaseRevoke",
                pb.LeaseRevokeRequest(ID=lease),
                pb.LeaseRevokeResponse,
                safe=True,
                timeout_seconds=timeout_seconds or self.timeout_seconds,
            )
        except LeaseLost:
            return

    def watch(self, prefix: str, start: Listing | None = None) -> AsyncGenerator[WatchBatch, None]:
        """Every change below ``prefix``, for ever; see :class:`lepton_mesh.etcd.watch.Watch`."""
        return Watch(self.transport, self.range_prefix, prefix, start).batches()

    async def refresh(self) -> None:
        """Opens the connections anew with the current certificate, without losing a call."""
        await self.transport.refresh()

    async def close(self) -> None:
        await self.transport.close()
