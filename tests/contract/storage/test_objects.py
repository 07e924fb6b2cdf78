"""The object store port against a directory and against S3."""

from __future__ import annotations

import os
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from lepton_mesh.caller import Caller, Role
from lepton_storage import bootstrap
from lepton_storage.adapters.objects_s3 import S3ObjectStore
from lepton_storage.config import StorageSettings
from lepton_storage.errors import ObjectMissing, ObjectStoreUnavailable
from lepton_storage.ports import ObjectStore
from tests.unit.storage.traffic import pieces, read, sha256

KEY = "ab" * 16
OTHER = "cd" * 16


def file_with(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "finished"
    path.write_bytes(data)
    return path


class TestObjectStore:
    """What every adapter promises."""

    @pytest.mark.parametrize("size", [1, 1000, 9 << 20])
    def test_what_was_put_is_read(self, objects: ObjectStore, tmp_path: Path, size: int) -> None:
        """Whole and by range, also past the end; the file given has moved away."""
        data = os.urandom(size)
        path = file_with(tmp_path, data)
        objects.put_file(KEY, path)
        assert not path.exists()
        stored = objects.open(KEY)
        assert stored.size == size
        assert stored.read(0, size) == data
        assert stored.read(size // 2, size) == data[size // 2 :]
        assert stored.read(size, 1) == b""
        stored.close()

    def test_putting_again_replaces(self, objects: ObjectStore, tmp_path: Path) -> None:
        """A put that was repeated after a crash does no harm."""
        for data in (b"one", b"another"):
            objects.put_file(KEY, file_with(tmp_path, data))
        assert objects.open(KEY).read(0, 100) == b"another"

    def test_what_is_not_there(self, objects: ObjectStore, tmp_path: Path) -> None:
        """Opening it is data loss, deleting it does nothing."""
        assert not objects.exists(KEY)
        with pytest.raises(ObjectMissing):
            objects.open(KEY)
        objects.delete(KEY)

    def test_objects_exist_until_deleted(self, objects: ObjectStore, tmp_path: Path) -> None:
        """Deleting one leaves the others."""
        for key in (KEY, OTHER):
            objects.put_file(key, file_with(tmp_path, key.encode()))
        assert objects.exists(KEY)
        objects.delete(KEY)
        assert not objects.exists(KEY)
        assert objects.exists(OTHER)


def test_a_store_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    """The caller may try again; the file is kept."""
    store = S3Store(
        "bucket",
        endpoint="http://127.0.0.1:1",
        access_key_id="test",
        secret_access_key="test",
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    path = file_with(tmp_path, b"data")
    with pytest.raises(ObjectStoreUnavailable, match="LEPTON_OBJECTS_URL"):
        S3ObjectStore(store).put_file(KEY, path)
    assert path.exists()


async def test_storage_on_s3(s3_endpoint: str, s3_store: S3Store, tmp_path: Path) -> None:
    """The whole way through the settings: sealed bytes go to the bucket, and come back."""
    bucket = s3_store.config["bucket"]
    settings = StorageSettings.load(
        "storage",
        {
            "LEPTON_STATE_DIR": str(tmp_path),
            "LEPTON_OBJECTS_URL": f"s3://{bucket}/objects",
            "LEPTON_OBJECTS_ENDPOINT": s3_endpoint,
            "LEPTON_DISK_RESERVE_BYTES": "0",
        },
    )
    storage = bootstrap.open_storage(settings)
    ada = Caller("user", "users/ada", "acme", Role.DEVELOPER)
    data = b"top secret " * 200_000
    begun = await storage.uploads.create(ada, len(data), sha256(data), "")
    await storage.uploads.write(ada, begun.upload.id, pieces(data))
    assert await read(storage, ada, sha256(data)) == data
    objects = S3ObjectStore(s3_store)
    listed = [entry["path"] for page in obstore.list(s3_store) for entry in page]
    assert listed == [begun.upload.id]
    stored = objects.open(begun.upload.id)
    assert b"top secret" not in stored.read(0, stored.size)
    storage.uploads.recover()
    assert objects.exists(begun.upload.id)
    storage.close()
