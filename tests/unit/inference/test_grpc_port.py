"""The fallback's server, without a model."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from lepton_inference.grpc_port import GrpcPort
from lepton_inference.open_inference import OpenInference
from lepton_inference.serving import Serving


class NoGate:
    """Nobody calls."""

    known: Any = None
    admit: Any = None


async def test_a_connection_does_not_outlive_its_age() -> None:
    """Clients are told to connect anew, so that their certificates are looked at again."""
    port = GrpcPort(
        OpenInference(Serving()), NoGate(), lambda _: None, 1 << 20, max_connection_age_seconds=0.1
    )
    address = await port.start(None, "127.0.0.1", 0)
    async with grpc.aio.insecure_channel(address) as channel:
        await channel.channel_ready()
        await asyncio.wait_for(channel.wait_for_state_change(grpc.ChannelConnectivity.READY), 10)
    await port.stop(0)
