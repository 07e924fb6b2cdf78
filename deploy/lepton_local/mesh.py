"""The stack's own view of the mesh: who is registered, and who answers."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import urllib.request
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lepton_local.tls_files import TlsFiles
from lepton_mesh.connect import CHANNEL_OPTIONS
from lepton_mesh.discovery import PREFIX, Instance
from lepton_mesh.etcd import EtcdClient
from lepton_mesh.spiffe import dns_name

_CHECK_TIMEOUT_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Seen:
    """An instance as etcd lists it, and what it says of itself."""

    instance: Instance
    health: str
    """SERVING, NOT_SERVING, or UNREACHABLE."""


@contextlib.asynccontextmanager
async def etcd_client(address: str, files: TlsFiles) -> AsyncIterator[EtcdClient]:
    """A client of the stack's etcd, as its root user."""
    client = EtcdClient([address], lambda endpoint: _channel(endpoint, files, "etcd"))
    try:
        yield client
    finally:
        await client.close()


async def look(client: EtcdClient, files: TlsFiles) -> list[Seen]:
    """Every instance in etcd, each asked for its health."""
    listing = await client.range_prefix(PREFIX)
    instances = [Instance.from_json(item.value) for item in listing.items]
    healths = await asyncio.gather(*(_health(instance, files) for instance in instances))
    return [Seen(*pair) for pair in zip(instances, healths, strict=True)]


async def unready(client: EtcdClient, files: TlsFiles, services: Sequence[str]) -> list[str]:
    """Those of ``services`` that have no instance which serves."""
    serving = {
        seen.instance.service for seen in await look(client, files) if seen.health == "SERVING"
    }
    return [service for service in services if service not in serving]


async def forget_instances(client: EtcdClient) -> None:
    """Removes the records of instances that are known to be dead, before their leases end."""
    for item in (await client.range_prefix(PREFIX)).items:
        await client.delete(item.key)


def gateway_serves(address: str, ca_file: Path) -> bool:
    """Whether the gateway has an instance of every service to send users' calls to."""
    context = ssl.create_default_context(cafile=ca_file)
    url = f"https://{address}/readyz"
    try:
        with urllib.request.urlopen(
            url, timeout=_CHECK_TIMEOUT_SECONDS, context=context
        ) as answer:  # https
            return bool(answer.read().strip() == b"ready")
    except OSError:
        return False


async def _health(instance: Instance, files: TlsFiles) -> str:
    async with _channel(instance.address, files, instance.service) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # its stubs name no methods
        try:
            answer = await stub.Check(
                health_pb2.HealthCheckRequest(), timeout=_CHECK_TIMEOUT_SECONDS
            )
        except grpc.aio.AioRpcError:
            return "UNREACHABLE"
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def _channel(address: str, files: TlsFiles, service: str) -> grpc.aio.Channel:
    credentials = grpc.ssl_channel_credentials(
        files.authority.read_bytes(), files.key.read_bytes(), files.certificate.read_bytes()
    )
    options = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", dns_name(service))]
    return grpc.aio.secure_channel(address, credentials, options=options)
