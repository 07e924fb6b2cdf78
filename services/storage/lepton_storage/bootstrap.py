"""Builds the adapters and wires the service: the only place that does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from obstore.store import S3Store

from lepton.api.storage.v1 import storage_pb2
from lepton.api.storage.v1.storage_pb2_grpc import add_StorageServiceServicer_to_server
from lepton_mesh.database import Database
from lepton_mesh.process import Served, Service
from lepton_mesh.runtime import MeshRuntime
from lepton_storage.access import TABLE
from lepton_storage.adapters.kek_file import FileKeyEncryption
from lepton_storage.adapters.manifest_key_file import open_manifest_key
from lepton_storage.adapters.objects_local import LocalObjectStore
from lepton_storage.adapters.objects_s3 import S3ObjectStore
from lepton_storage.adapters.sql_artifacts import SqlArtifactRecords
from lepton_storage.adapters.sql_datasets import SqlDatasetRecords
from lepton_storage.adapters.sql_keys import SqlKeyRecords
from lepton_storage.adapters.sql_uploads import SqlUploadRecords
from lepton_storage.artifacts import Artifacts
from lepton_storage.blobs import Blobs
from lepton_storage.checks import Checks
from lepton_storage.config import StorageSettings
from lepton_storage.datasets import Datasets
from lepton_storage.keys import Keyring
from lepton_storage.ports import ObjectStore
from lepton_storage.servicer import StorageServicer
from lepton_storage.staging import Staging
from lepton_storage.state_lock import lock_state
from lepton_storage.threads import IoThreads
from lepton_storage.uploads import UploadPolicy, Uploads

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Storage:
    """The domain with its adapters, on the disk and database of ``settings``."""

    keys: Keyring
    uploads: Uploads
    blobs: Blobs
    datasets: Datasets
    artifacts: Artifacts
    close: Callable[[], None]

    @property
    def servicer(self) -> StorageServicer:
        return StorageServicer(self.uploads, self.datasets, self.artifacts, self.blobs)

    def maintain(self) -> None:
        """Forgets what expired and what nothing uses. Blocks: use a thread."""
        expired, collected = self.uploads.expire(), self.blobs.collect()
        if expired or collected:
            log.info("cleaned up", extra={"uploads": expired, "blobs": collected})


def open_storage(settings: StorageSettings) -> Storage:
    """Opens what is on disk, or makes it. Blocks: use a thread.

    Raises InvalidConfiguration: a key file that the database needs is missing or another one.
    """
    database = Database.open(settings.database_url, "lepton_storage.migrations")
    try:
        return _wire(settings, database)
    except BaseException:
        database.close()
        raise


def _wire(settings: StorageSettings, database: Database) -> Storage:
    key_records, dataset_records = SqlKeyRecords(database), SqlDatasetRecords(database)
    kms = FileKeyEncryption.open(
        settings.state_dir / "kek.json", {key.kek_id for key in key_records.alive()}
    )
    manifest_key = open_manifest_key(
        settings.state_dir / "manifest_key.pem", needed=dataset_records.any_version()
    )
    keys = Keyring(key_records, kms)
    objects, staging_root = _open_objects(settings)
    threads = IoThreads(settings.io_threads)
    staging = Staging(staging_root, keys, reserve_bytes=settings.disk_reserve_bytes)
    records = SqlUploadRecords(database)
    policy = UploadPolicy(lifetime=timedelta(hours=settings.upload_lifetime_hours))
    uploads = Uploads(records, staging, objects, threads, policy)
    blobs = Blobs(records, objects, keys, threads)
    checks = Checks()

    def close() -> None:
        checks.close()
        threads.close()
        database.close()

    return Storage(
        keys=keys,
        uploads=uploads,
        blobs=blobs,
        datasets=Datasets(
            dataset_records, uploads, blobs, manifest_key, threads=threads, checks=checks
        ),
        artifacts=Artifacts(SqlArtifactRecords(database), uploads, blobs, threads),
        close=close,
    )


async def build(runtime: MeshRuntime, settings: StorageSettings) -> Service:
    """The service as the mesh serves it."""
    lock = lock_state(settings.state_dir, shared=True)
    try:
        storage = await asyncio.to_thread(open_storage, settings)
    except BaseException:
        lock.close()
        raise
    upkeep: list[asyncio.Task[None]] = []

    async def start() -> None:
        await asyncio.to_thread(storage.uploads.recover)
        upkeep.append(asyncio.create_task(_maintain(storage, settings.maintenance_seconds)))

    async def close() -> None:
        for task in upkeep:
            task.cancel()
        await asyncio.gather(*upkeep, return_exceptions=True)
        await asyncio.to_thread(storage.close)
        lock.close()

    return Service(
        servicers=[
            Served(
                add_StorageServiceServicer_to_server,
                storage.servicer,
                storage_pb2.DESCRIPTOR.services_by_name["StorageService"],
            )
        ],
        table=TABLE,
        start=start,
        close=close,
    )


async def _maintain(storage: Storage, seconds: float) -> None:
    while True:
        try:
            await asyncio.to_thread(storage.maintain)
        except Exception:  # a full disk or an absent database: the next round may go well
            log.exception("clean-up failed", extra={"next_seconds": seconds})
        await storage.blobs.wait_to_collect(seconds)


def _open_objects(settings: StorageSettings) -> tuple[ObjectStore, Path]:
    """The object store, and the directory for uploads in progress."""
    if not settings.objects_url.startswith("s3://"):
        # On one file system with the objects, so that a finished upload only needs a rename.
        root = Path(settings.objects_url or settings.state_dir / "objects")
        return LocalObjectStore(root / "stored"), root / "uploads"
    url = urlsplit(settings.objects_url)
    store = S3Store(
        url.netloc,
        prefix=url.path.strip("/") or None,
        endpoint=settings.objects_endpoint or None,
        client_options={"allow_http": settings.objects_endpoint.startswith("http://")},
    )
    return S3ObjectStore(store), settings.state_dir / "uploads"
