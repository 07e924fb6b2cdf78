"""The storage service over real TLS: transfers, through kills of the service and of clients."""

from __future__ import annotations

import asyncio
import functools
import gzip
import hashlib
import os
import threading
from pathlib import Path

import pytest

from lepton.api.storage.v1 import storage_pb2 as pb
from lepton.client import transfer
from lepton.client.errors import ApiError, TransferError
from tests.integration.storage.conftest import World, artifact_of, random_file

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="session")]

MIB = 1 << 20


class Pause:
    """Holds a transfer at a number of bytes until it is told to go on."""

    def __init__(self, at: int) -> None:
        self._at = at
        self._reached = threading.Event()
        self._go_on = threading.Event()
        self.calls_after_end = 0

    def __call__(self, done: int) -> None:
        self.calls_after_end += self._go_on.is_set()
        if done >= self._at:
            self._reached.set()
            self._go_on.wait(60)

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, 60)

    def end(self) -> None:
        self._go_on.set()


@pytest.mark.parametrize("size", [0, 1, MIB, 5 * MIB + 3])
async def test_a_file_goes_there_and_back(world: World, tmp_path: Path, size: int) -> None:
    """Uploaded, made an artifact of, and downloaded: the same bytes, and nothing beside them."""
    source = random_file(tmp_path / "source", size)
    (tmp_path / "target").mkdir()
    target = tmp_path / "target" / "file"

    def go() -> None:
        done: list[int] = []
        with world.stub() as stub:
            metadata = world.metadata("developer")
            upload = transfer.upload_file(stub, source, metadata=metadata, progress=done.append)
            assert upload.complete
            assert done == sorted(done)
            assert done[-1] == size
            artifact = artifact_of(world, stub, upload)
            assert artifact.size_bytes == size
            transfer.download_artifact(stub, artifact, target, metadata=world.metadata("viewer"))

    await asyncio.to_thread(go)
    assert target.read_bytes() == source.read_bytes()
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("dataset", ["digits", "mnist"])
async def test_a_dataset_is_checked_and_read(
    world: World, tmp_path: Path, dataset: str, request: pytest.FixtureRequest
) -> None:
    """Small IDX files, and MNIST where there is real data; a range is what was asked for."""
    if dataset == "mnist":
        folder = request.getfixturevalue("real_data") / "mnist"
    else:
        folder = idx_folder(tmp_path)

    def go() -> None:
        metadata = world.metadata("developer")
        with world.stub() as stub:
            files = [
                pb.DataFile(
                    path=path.name,
                    sha256=transfer.upload_file(stub, path, metadata=metadata).sha256,
                )
                for path in sorted(folder.glob("*.gz"))
            ]
            stub.CreateDataset(pb.CreateDatasetRequest(dataset_id=dataset), metadata=metadata)
            new = pb.CreateDatasetVersionRequest(
                parent=f"datasets/{dataset}",
                dataset_version=pb.DatasetVersion(format=pb.DATASET_FORMAT_IDX, files=files),
            )
            version = stub.CreateDatasetVersion(new, metadata=metadata)
            assert version.name == f"datasets/{dataset}/versions/1"
            assert version.statistics["image_shape"] == "28x28"
            assert version == stub.CreateDatasetVersion(new, metadata=metadata)
            latest = pb.GetDatasetVersionRequest(name=f"datasets/{dataset}/versions/latest")
            assert stub.GetDatasetVersion(latest, metadata=world.metadata("viewer")) == version
            for file in version.files:
                target = tmp_path / f"back-{file.path}"
                transfer.download_dataset_file(
                    stub, version.name, file, target, metadata=world.metadata("viewer")
                )
                assert target.read_bytes() == (folder / file.path).read_bytes()
            file = version.files[0]
            chunks = stub.ReadDatasetFile(
                pb.ReadDatasetFileRequest(name=version.name, path=file.path, offset=10, limit=100),
                metadata=world.metadata("viewer"),
            )
            data = b"".join(chunk.data for chunk in chunks)
            assert data == (folder / file.path).read_bytes()[10:110]

    await asyncio.to_thread(go)


async def test_an_upload_survives_kill_9(world: World, tmp_path: Path) -> None:
    """The client goes on by itself once the service is back, from what was durable."""
    source = random_file(tmp_path / "source", 32 * MIB)
    pause = Pause(16 * MIB)
    metadata = world.metadata("developer")

    def go() -> pb.Upload:
        with world.stub() as stub:
            return transfer.upload_file(stub, source, metadata=metadata, progress=pause)

    uploading = asyncio.create_task(asyncio.to_thread(go))
    await pause.reached()
    await asyncio.to_thread(wait_for_committed, world, source, 8 * MIB)
    world.process.kill()
    pause.end()
    await world.process.start()
    upload = await uploading
    assert upload.complete
    # 16 MiB were sent before the kill, and at least 8 of them are not sent again.
    assert pause.calls_after_end < 25
    assert list((world.process.state / "objects" / "uploads").iterdir()) == []
    target = tmp_path / "target"

    def back() -> None:
        with world.stub() as stub:
            artifact = artifact_of(world, stub, upload)
            transfer.download_artifact(stub, artifact, target, metadata=metadata)

    await asyncio.to_thread(back)
    assert target.read_bytes() == source.read_bytes()


async def test_an_upload_goes_on_in_another_client(world: World, tmp_path: Path) -> None:
    """A client that ends leaves what it sent; the next one sends the rest only."""
    source = random_file(tmp_path / "source", 8 * MIB)
    metadata = world.metadata("developer")
    pause = Pause(6 * MIB)

    def stop(done: int) -> None:
        pause(done)
        if done >= 6 * MIB:
            raise ConnectionError("this client ends here")

    def first() -> None:
        with world.stub() as stub, pytest.raises(ApiError):
            transfer.upload_file(stub, source, metadata=metadata, progress=stop)

    began: list[int] = []

    def second() -> pb.Upload:
        with world.stub() as stub:
            return transfer.upload_file(stub, source, metadata=metadata, progress=began.append)

    running = asyncio.create_task(asyncio.to_thread(first))
    await pause.reached()
    await asyncio.to_thread(wait_for_committed, world, source, 4 * MIB)
    pause.end()
    await running
    assert (await asyncio.to_thread(second)).complete
    assert began[0] > 4 * MIB


async def test_a_download_survives_kill_9(world: World, tmp_path: Path) -> None:
    """Whether the client lives or not, what has arrived is not asked for again."""
    source = random_file(tmp_path / "source", 32 * MIB)
    target = tmp_path / "target"
    metadata = world.metadata("developer")
    pause = Pause(12 * MIB)

    def go() -> None:
        with world.stub() as stub:
            upload = transfer.upload_file(stub, source, metadata=metadata)
            artifact = artifact_of(world, stub, upload)
            transfer.download_artifact(stub, artifact, target, metadata=metadata, progress=pause)

    downloading = asyncio.create_task(asyncio.to_thread(go))
    await pause.reached()
    world.process.kill()
    assert not target.exists()
    pause.end()
    await world.process.start()
    await downloading
    assert target.read_bytes() == source.read_bytes()


async def test_a_damaged_part_is_thrown_away(world: World, tmp_path: Path) -> None:
    """What lies beside the target is checked with the rest; the second attempt is clean."""
    source = random_file(tmp_path / "source", 2 * MIB)
    target = tmp_path / "target"
    metadata = world.metadata("developer")

    def go() -> None:
        with world.stub() as stub:
            upload = transfer.upload_file(stub, source, metadata=metadata)
            artifact = artifact_of(world, stub, upload)
            part = tmp_path / f".target.{upload.sha256[:16]}.part"
            part.write_bytes(bytes(MIB))
            with pytest.raises(TransferError, match="was not written"):
                transfer.download_artifact(stub, artifact, target, metadata=metadata)
            assert not target.exists()
            transfer.download_artifact(stub, artifact, target, metadata=metadata)

    await asyncio.to_thread(go)
    assert target.read_bytes() == source.read_bytes()


async def test_kill_9_while_versions_are_made(world: World, tmp_path: Path) -> None:
    """Every version is there whole or not at all, and can be made again."""
    metadata = world.metadata("developer")
    source = tmp_path / "table.csv"
    source.write_bytes(b"a,b\n" + b"1,2\n" * 300_000)

    def request(number: int, sha256: str) -> pb.CreateDatasetVersionRequest:
        file = pb.DataFile(path=f"table-{number}.csv", sha256=sha256)
        return pb.CreateDatasetVersionRequest(
            parent="datasets/tables",
            dataset_version=pb.DatasetVersion(format=pb.DATASET_FORMAT_CSV, files=[file]),
        )

    def before() -> str:
        with world.stub() as stub:
            stub.CreateDataset(pb.CreateDatasetRequest(dataset_id="tables"), metadata=metadata)
            sha256 = transfer.upload_file(stub, source, metadata=metadata).sha256
            calls = [
                stub.CreateDatasetVersion.future(request(n, sha256), metadata=metadata)
                for n in (1, 2)
            ]
            world.process.kill()  # while the rows are being counted
            assert all(call.exception() for call in calls)
            return sha256

    def after(sha256: str) -> None:
        with world.stub() as stub:
            made = [
                stub.CreateDatasetVersion(request(n, sha256), metadata=metadata) for n in (1, 2)
            ]
            assert sorted(one.name for one in made) == [
                f"datasets/tables/versions/{n}" for n in (1, 2)
            ]
            assert {one.statistics["rows"] for one in made} == {"300000"}

    sha256 = await asyncio.to_thread(before)
    await world.process.start()
    await asyncio.to_thread(after, sha256)


async def test_the_service_stops_cleanly(world: World) -> None:
    """SIGTERM ends it with status 0, and it starts again with what it had."""
    assert await asyncio.to_thread(world.process.stop) == 0
    await world.process.start()


def wait_for_committed(world: World, source: Path, size: int) -> None:
    """Asks until the running upload of ``source`` has that many bytes in the service."""
    request = pb.CreateUploadRequest(
        size_bytes=source.stat().st_size, sha256=hashlib.sha256(source.read_bytes()).hexdigest()
    )
    request.request_id = f"file-{request.sha256}-{request.size_bytes}"
    with world.stub() as stub:
        ask = functools.partial(stub.CreateUpload, request, metadata=world.metadata("developer"))
        while ask().committed_bytes < size:
            pass


def idx_folder(tmp_path: Path) -> Path:
    """Four small files of MNIST's form."""
    folder = tmp_path / "idx"
    folder.mkdir()
    for prefix, count in (("train", 60), ("t10k", 10)):
        shape = b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        images = b"\0\0\x08\x03" + shape + os.urandom(count * 784)
        labels = b"\0\0\x08\x01" + shape[:4] + bytes(n % 10 for n in range(count))
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return folder
