"""What opens a channel, and the channel options that every long-lived channel needs.

The balancer and the etcd client know nothing of TLS: they are handed a
:data:`Connect`, and call it anew for each connection they make, so that a
channel opened after a certificate was renewed carries the new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc

Connect = Callable[[str], grpc.aio.Channel]
"""Opens a channel to ``host:port``; returns at once, before it is connected."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # gRPC's own backoff grows to two minutes; a peer that restarted is wanted back sooner.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A peer that was stopped or cut off sends no FIN: only pings find it. etcd
    # refuses pings more often than every 5 s, and pings without a call.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),
    # Channels to one address must not share a connection: the older one may
    # carry the older certificate.
    ("grpc.use_local_subchannel_pool", 1),
)

STREAM_GRACE_SECONDS = 3600
"""How long a stream may go on over a connection that is too old for new calls."""


def being_cancelled() -> bool:
    """Whether the running task itself was cancelled.

    ``grpc.aio`` raises CancelledError also when a call ended with CANCELLED, as
    when its channel was closed, and that must not end the task that made it.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
