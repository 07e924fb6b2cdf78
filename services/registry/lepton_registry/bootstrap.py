"""Builds the registry's parts and wires them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from lepton.api.registry.v1 import registry_pb2, registry_pb2_grpc
from lepton_mesh.database import Database
from lepton_mesh.process import Served, Service
from lepton_mesh.runtime import MeshRuntime
from lepton_registry.adapters.sql import SqlStore
from lepton_registry.adapters.storage_artifacts import REPEATABLE, StorageArtifacts
from lepton_registry.config import RegistrySettings
from lepton_registry.files import Files
from lepton_registry.registry import Registry
from lepton_registry.servicer import TABLE, RegistryServicer


async def build(runtime: MeshRuntime, settings: RegistrySettings) -> Service:
    """The registry over its database and the storage service."""
    database = await asyncio.to_thread(
        Database.open, settings.database_url, "lepton_registry.migrations"
    )
    storage = runtime.channel("storage", idempotent=REPEATABLE)
    store = SqlStore(database)
    files = Files(store, StorageArtifacts(storage, settings.storage_timeout_seconds), _now)
    settling: list[asyncio.Task[None]] = []

    async def start() -> None:
        settling.append(asyncio.create_task(files.run()))

    async def close() -> None:
        for task in settling:
            task.cancel()
        await asyncio.gather(*settling, return_exceptions=True)
        await asyncio.to_thread(database.close)

    return Service(
        servicers=[
            Served(
                registry_pb2_grpc.add_RegistryServiceServicer_to_server,
                RegistryServicer(Registry(store, files, _now)),
                registry_pb2.DESCRIPTOR.services_by_name["RegistryService"],
            )
        ],
        table=TABLE,
        start=start,
        close=close,
    )


def _now() -> datetime:
    return datetime.now(UTC)
