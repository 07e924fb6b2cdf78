"""Builds the registry's parts and wires them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from lepton.api.registry.v1 import registry_pb2, registry_pb2_grpc
from lepton_mesh.database import Database
from lepton_mesh.process import Served, Service
from lepton_mesh.runtime import MeshRuntime
from lepton_registry.adapters.sql import SqlStore
from lepton_registry.adapters.storage_artifacts import GET_ARTIFACT, StorageArtifacts
from lepton_registry.config import RegistrySettings
from lepton_registry.registry import Registry
from lepton_registry.servicer import TABLE, RegistryServicer


async def build(runtime: MeshRuntime, settings: RegistrySettings) -> Service:
    """The registry over its database and the storage service."""
    database = await asyncio.to_thread(
        Database.open, settings.database_url, "lepton_registry.migrations"
    )
    storage = runtime.channel("storage", idempotent={GET_ARTIFACT})
    registry = Registry(
        SqlStore(database),
        StorageArtifacts(storage, settings.storage_timeout_seconds),
        lambda: datetime.now(UTC),
    )

    async def close() -> None:
        await asyncio.to_thread(database.close)

    return Service(
        servicers=[
            Served(
                registry_pb2_grpc.add_RegistryServiceServicer_to_server,
                RegistryServicer(registry),
                registry_pb2.DESCRIPTOR.services_by_name["RegistryService"],
            )
        ],
        table=TABLE,
        close=close,
    )
