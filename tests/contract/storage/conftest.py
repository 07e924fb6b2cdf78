"""Each object store that storage must behave the same on, and its database."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from lepton_mesh.database import Database
from lepton_storage.adapters.objects_local import LocalObjectStore
from lepton_storage.adapters.objects_s3 import S3ObjectStore
from lepton_storage.ports import ObjectStore


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """An S3 server of this process's own, on loopback."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_store(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """An empty bucket."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    bucket = f"bucket-{uuid.uuid4().hex}"
    httpx = pytest.importorskip("httpx")
    httpx.put(f"{s3_endpoint}/{bucket}").raise_for_status()
    store = S3Store(
        bucket, prefix="objects", endpoint=s3_endpoint, client_options={"allow_http": True}
    )
    assert list(obstore.list(store)) == []
    return store


@pytest.fixture(params=["local", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "local":
        return LocalObjectStore(tmp_path / "stored")
    return S3ObjectStore(request.getfixturevalue("s3_store"))


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An empty database of storage."""
    database = Database.open(database_url, "lepton_storage.migrations")
    yield database
    database.close()
