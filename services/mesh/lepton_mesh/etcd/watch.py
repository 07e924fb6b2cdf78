"""A watch that outlives its connection, its server and etcd's history."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from lepton_mesh.connect import being_cancelled
from lepton_mesh.errors import Unavailable
from lepton_mesh.etcd.errors import EtcdDenied, EtcdUnavailable, translate
from lepton_mesh.etcd.keys import KeyValue, Listing, prefix_end, to_key_value
from lepton_mesh.etcd.v3 import etcd_pb2 as pb

if TYPE_CHECKING:
    from lepton_mesh.etcd.transport import Transport

log = logging.getLogger(__name__)

METHOD = "/etcdserverpb.Watch/Watch"
CONNECT_SECONDS = 5.0
MAX_PAUSE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """A key that was put, or deleted (``item`` None)."""

    key: str
    item: KeyValue | None
    revision: int


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Changes that etcd made known together, in order."""

    events: tuple[WatchEvent, ...]
    revision: int
    """Every change at or below this revision is known now."""
    resync: bool
    """True where the changes come from listing the keys again and comparing:
    changes in between were not seen, only what they led to."""


class _HistoryGoneError(Exception):
    """The watch cannot go on from its revision: compacted, or another history altogether."""


class Watch:
    """Every change below a prefix, for ever, across outages.

    The first batch is the listing itself (``resync``), even when it is empty,
    unless the caller listed already and hands it in as ``start``. After a lost
    connection the watch goes on from the last revision seen. It asks for that
    revision itself, and drops the events at or below it: etcd 3.5.16 and later
    leave progress requests unanswered on a watch that begins in the future.
    Where etcd has compacted that revision, or is another cluster or one set back
    (its data directory was lost), the keys are listed again and the difference
    is reported.
    """

    def __init__(
        self,
        transport: Transport,
        listing: Callable[[str], Awaitable[Listing]],
        prefix: str,
        start: Listing | None,
    ) -> None:
        self._transport = transport
        self._list = listing
        self._prefix = prefix
        self._listed = start is not None
        self._known = {item.key: item.mod_revision for item in start.items} if start else {}
        self._revision = start.revision if start else 0
        self._cluster = start.cluster_id if start else 0

    async def batches(self) -> AsyncGenerator[WatchBatch, None]:
        """Batches without end.

        Raises:
            EtcdDenied: The certificate's name may not read the prefix.
        """
        pause = 0.05
        while True:
            try:
                if not self._listed:
                    batch = await self._resync()
                    yield batch
                async with contextlib.aclosing(self._stream()) as stream:
                    async for batch in stream:
                        pause = 0.05
                        yield batch
            except _HistoryGoneError as gone:
                log.info("watch lists again", extra={"prefix": self._prefix, "error": str(gone)})
                self._listed = False
            except Unavailable as error:
                log.info("watch interrupted", extra={"prefix": self._prefix, "error": str(error)})
                await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter is no secret
                pause = min(2 * pause, MAX_PAUSE_SECONDS)

    async def _resync(self) -> WatchBatch:
        listing = await self._list(self._prefix)
        same_history = listing.cluster_id == self._cluster
        found = {item.key: item.mod_revision for item in listing.items}
        events = [
            WatchEvent(key, None, listing.revision) for key in self._known if key not in found
        ]
        events += [
            WatchEvent(item.key, item, item.mod_revision)
            for item in listing.items
            if not same_history or self._known.get(item.key) != item.mod_revision
        ]
        self._known = found
        self._revision = listing.revision
        self._cluster = listing.cluster_id
        self._listed = True
        return WatchBatch(tuple(events), listing.revision, resync=True)

    async def _stream(self) -> AsyncGenerator[WatchBatch, None]:
        loop = asyncio.get_running_loop()
        endpoint, channel = await self._transport.ready(loop.time() + CONNECT_SECONDS)
        open_stream: grpc.aio.StreamStreamMultiCallable[pb.WatchRequest, pb.WatchResponse]
        open_stream = channel.stream_stream(
            METHOD,
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.WatchResponse.FromString,
        )
        call = open_stream()
        first = self._prefix.encode()
        create = pb.WatchCreateRequest(
            key=first,
            range_end=prefix_end(first),
            start_revision=self._revision,
            progress_notify=True,
        )
        try:
            await call.write(pb.WatchRequest(create_request=create))
            created = await asyncio.wait_for(call.read(), CONNECT_SECONDS)
            self._check(created, endpoint)
            while True:
                response = await call.read()
                yield self._batch(self._check(response, endpoint))
        except grpc.aio.AioRpcError as error:
            self._transport.demote(endpoint)
            raise translate(error, METHOD, endpoint) from error
        except asyncio.CancelledError:
            if being_cancelled():
                raise
            raise EtcdUnavailable(f"the connection to etcd at {endpoint} was closed") from None
        except (TimeoutError, asyncio.InvalidStateError) as error:
            self._transport.demote(endpoint)
            raise EtcdUnavailable(f"etcd at {endpoint} does not begin the watch") from error
        finally:
            call.cancel()

    def _check(self, response: object, endpoint: str) -> pb.WatchResponse:
        """The response, if the watch stands and is of the history that is known."""
        if not isinstance(response, pb.WatchResponse):
            raise EtcdUnavailable(f"etcd at {endpoint} ended the watch")
        if response.compact_revision:
            raise _HistoryGoneError(f"compacted up to revision {response.compact_revision}")
        if response.canceled:
            if "permission denied" in response.cancel_reason:
                raise EtcdDenied(f"etcd refuses the watch of {self._prefix}: add it to the role")
            raise EtcdUnavailable(f"etcd at {endpoint} ended the watch: {response.cancel_reason}")
        if response.header.cluster_id != self._cluster:
            raise _HistoryGoneError("the cluster is another one")
        if response.created and response.header.revision < self._revision:
            raise _HistoryGoneError(
                f"revision {response.header.revision} is behind the known {self._revision}"
            )
        return response

    def _batch(self, response: pb.WatchResponse) -> WatchBatch:
        events: list[WatchEvent] = []
        for event in response.events:
            item = to_key_value(event.kv)
            if item.mod_revision <= self._revision:
                continue
            if event.type == pb.Event.EVENT_TYPE_DELETE:
                self._known.pop(item.key, None)
                events.append(WatchEvent(item.key, None, item.mod_revision))
            else:
                self._known[item.key] = item.mod_revision
                events.append(WatchEvent(item.key, item, item.mod_revision))
        # An answer with events carries the store's revision, which may be past
        # events still to come; only a progress notice promises completeness.
        seen = events[-1].revision if response.events and events else self._revision
        if not response.events and not response.created:
            seen = max(seen, response.header.revision)
        self._revision = seen
        return WatchBatch(tuple(events), seen, resync=False)
