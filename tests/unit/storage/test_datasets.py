"""Datasets, their immutable versions, artifacts, and what may be seen by whom."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from lepton_mesh.authorization import CallerNotAllowed, RoleTooLow
from lepton_mesh.caller import Caller, ResourceNotGranted, Role
from lepton_mesh.config import InvalidConfiguration
from lepton_mesh.errors import LeptonError
from lepton_mesh.resources import Page
from lepton_storage.artifacts import CHECKPOINT_MEDIA_TYPE, NewArtifact
from lepton_storage.bootstrap import Storage
from lepton_storage.datasets import LATEST, NewFile, NewVersion
from lepton_storage.errors import (
    ArtifactNotFound,
    BlobNotFound,
    DatasetExists,
    DatasetFileNotFound,
    DatasetInvalid,
    DatasetNotFound,
    DatasetVersionNotFound,
    ManifestCorrupt,
    StorageRequestInvalid,
)
from lepton_storage.manifest import manifest_digest
from lepton_storage.records import Artifact, DatasetFormat, DatasetVersion
from tests.unit.storage.conftest import Open
from tests.unit.storage.traffic import read, send, sha256

RAW = DatasetFormat.RAW


def new(files: dict[str, bytes], format: DatasetFormat = RAW, **values: object) -> NewVersion:
    listed = [NewFile(path, sha256(data), "") for path, data in files.items()]
    return replace(NewVersion(format, listed, "", {}), **values)


async def push(
    storage: Storage, caller: Caller, files: dict[str, bytes], format: DatasetFormat = RAW
) -> DatasetVersion:
    """A version of `digits` with these files."""
    for data in files.values():
        await send(storage, caller, data)
    with contextlib.suppress(DatasetExists):
        await storage.datasets.create(caller, "digits", "", {})
    return await storage.datasets.create_version(caller, "digits", new(files, format))


async def artifact(storage: Storage, caller: Caller, data: bytes, source: str = "") -> Artifact:
    await send(storage, caller, data)
    asked = NewArtifact(sha256(data), "application/onnx", "model.onnx", source, {"k": "v"})
    return await storage.artifacts.create(caller, asked)


def stored(tmp_path: Path) -> list[Path]:
    root = tmp_path / "state" / "objects" / "stored"
    return [path for path in root.rglob("*") if path.is_file()]


async def test_a_version_is_a_signed_manifest(storage: Storage, ada: Caller) -> None:
    """The manifest says path, digest and size of each file, in order, and the format."""
    version = await push(storage, ada, {"b.txt": b"bb", "a/é.csv.gz": b"a"})
    assert json.loads(version.manifest) == {
        "schema": "lepton.dev/dataset-manifest/v1",
        "format": "RAW",
        "files": [
            {"path": "a/é.csv.gz", "sha256": sha256(b"a"), "size_bytes": 1},
            {"path": "b.txt", "sha256": sha256(b"bb"), "size_bytes": 2},
        ],
    }
    assert version.digest == manifest_digest(version.manifest)
    assert version.name == "datasets/digits/versions/1"
    assert version.size_bytes == 3
    assert [file.media_type for file in version.files] == ["application/gzip", "text/plain"]
    for number in (1, LATEST):
        assert await storage.datasets.get_version(ada, "digits", number) == version


async def test_the_same_content_is_the_same_version(storage: Storage, ada: Caller) -> None:
    """Making it again, even at the same time, gives the version that exists."""
    files = {"a.csv": b"x,y\n1,2\n"}
    first = await push(storage, ada, files)
    again = await asyncio.gather(
        *(storage.datasets.create_version(ada, "digits", new(files)) for _ in range(3))
    )
    assert {one.number for one in again} == {1}
    checked = await push(storage, ada, files, DatasetFormat.CSV)
    assert (checked.number, checked.statistics["rows"]) == (2, "1")
    assert checked.digest != first.digest


async def test_versions_made_at_once_have_their_own_numbers(storage: Storage, ada: Caller) -> None:
    """No two versions share a number, and none is lost."""
    await push(storage, ada, {"a": b"0"})
    made = await asyncio.gather(*(push(storage, ada, {"a": b"%d" % n}) for n in range(1, 6)))
    assert sorted(one.number for one in made) == [2, 3, 4, 5, 6]
    page = Page(4, None, "versions")
    listed, token = await storage.datasets.list_versions(ada, "digits", page)
    assert [one.number for one in listed] == [6, 5, 4, 3]
    assert token
    rest, token = await storage.datasets.list_versions(ada, "digits", replace(page, after=(3,)))
    assert [one.number for one in rest] == [2, 1]
    assert not token


async def test_a_file_that_is_not_what_it_should_be_makes_no_version(
    storage: Storage, ada: Caller
) -> None:
    """All or nothing: the dataset is as it was."""
    with pytest.raises(DatasetInvalid, match=r"b\.csv has 1 field in line 2"):
        await push(storage, ada, {"a.csv": b"x,y\n1,2\n", "b.csv": b"x,y\n1\n"}, DatasetFormat.CSV)
    with pytest.raises(BlobNotFound):
        await storage.datasets.create_version(ada, "digits", new({"a": b"never sent"}))
    assert (await storage.datasets.get(ada, "digits")).latest == 0
    with pytest.raises(DatasetVersionNotFound):
        await storage.datasets.get_version(ada, "digits", LATEST)


async def test_a_path_that_could_leave_its_folder_is_refused(storage: Storage, ada: Caller) -> None:
    """The version is not made; see test_paths for what a path may be."""
    with pytest.raises(DatasetInvalid):
        await push(storage, ada, {"../a": b"a"})


async def test_malformed_versions_and_datasets_are_refused(storage: Storage, ada: Caller) -> None:
    """Too long, too many, twice, none."""
    version = await push(storage, ada, {"a": b"a"})
    file = NewFile("a", version.files[0].blob.sha256, "")
    for bad, reason in (
        (NewVersion(RAW, [], "", {}), "STORAGE_REQUEST_INVALID"),
        (NewVersion(RAW, [file, file], "", {}), "DATASET_INVALID"),
        (NewVersion(RAW, [file._replace(sha256="no")], "", {}), "STORAGE_REQUEST_INVALID"),
        (NewVersion(RAW, [file], "d" * 4001, {}), "STORAGE_REQUEST_INVALID"),
        (NewVersion(RAW, [file], "a\0", {}), "STORAGE_REQUEST_INVALID"),
        (NewVersion(RAW, [file], "", {"k": "\0"}), "STORAGE_REQUEST_INVALID"),
        (NewVersion(RAW, [file], "", {"\0": "v"}), "STORAGE_REQUEST_INVALID"),
        (NewVersion(RAW, [file._replace(media_type="m" * 256)], "", {}), "STORAGE_REQUEST_INVALID"),
        (NewVersion(RAW, [file._replace(media_type="\0")], "", {}), "STORAGE_REQUEST_INVALID"),
        (NewVersion(RAW, [file], "", {"": "v"}), "STORAGE_REQUEST_INVALID"),
        (NewVersion(RAW, [file], "", {str(n): "" for n in range(65)}), "STORAGE_REQUEST_INVALID"),
    ):
        with pytest.raises(LeptonError) as raised:
            await storage.datasets.create_version(ada, "digits", bad)
        assert raised.value.reason == reason
    with pytest.raises(DatasetExists):
        await storage.datasets.create(ada, "digits", "", {})


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE dataset_files SET path = 'b'",
        "UPDATE dataset_versions SET signature = 'AAAA'",
        "UPDATE dataset_versions SET digest = 'sha256:0'",
        "UPDATE blobs SET size_bytes = 7",
    ],
)
async def test_a_changed_record_is_found(storage: Storage, ada: Caller, change: str) -> None:
    """What the database says is checked against the signed manifest."""
    await push(storage, ada, {"a": b"a"})
    storage.uploads._records._database.write_now(lambda session: session.execute(text(change)))
    with pytest.raises(ManifestCorrupt):
        await storage.datasets.get_version(ada, "digits", 1)


async def test_signatures_hold_after_a_restart(storage: Storage, reopen: Open, ada: Caller) -> None:
    """The manifest key is kept."""
    version = await push(storage, ada, {"a": b"a"})
    assert await reopen().datasets.get_version(ada, "digits", 1) == version


async def test_a_lost_manifest_key_stops_the_start(
    storage: Storage, reopen: Open, ada: Caller, tmp_path: Path
) -> None:
    """Once something is signed, a missing key is said; no new one is made in its place."""
    path = tmp_path / "state" / "manifest_key.pem"
    path.unlink()
    await push(reopen(), ada, {"a": b"a"})
    path.unlink()
    with pytest.raises(InvalidConfiguration, match=r"manifest_key\.pem is missing.*backup"):
        reopen()
    assert not path.exists()


async def test_deleting_deletes_the_last_use_of_bytes(
    storage: Storage, ada: Caller, tmp_path: Path
) -> None:
    """Bytes stay while a version, an artifact or an upload refers to them, and no longer."""
    await push(storage, ada, {"a": b"shared", "b": b"own"})
    made = await artifact(storage, ada, b"shared")
    storage.uploads._records._database.write_now(
        lambda session: session.execute(text("DELETE FROM uploads"))
    )
    storage.blobs.collect()
    assert len(stored(tmp_path)) == 2
    await storage.datasets.delete(ada, "digits")
    storage.maintain()
    assert len(stored(tmp_path)) == 1
    assert await read(storage, ada, sha256(b"shared")) == b"shared"
    await storage.artifacts.delete(ada, made.id)
    storage.maintain()
    assert stored(tmp_path) == []
    with pytest.raises(DatasetNotFound):
        await storage.datasets.get(ada, "digits")
    with pytest.raises(ArtifactNotFound):
        await storage.artifacts.get(ada, made.id)


async def test_collection_spares_what_was_just_uploaded(
    storage: Storage, ada: Caller, tmp_path: Path
) -> None:
    """Between the upload and the version, and during an upload, nothing is collected."""
    await send(storage, ada, b"ready")
    assert storage.blobs.collect() == 0
    assert len(stored(tmp_path)) == 1


async def test_workspaces_do_not_see_each_other(storage: Storage, ada: Caller, eve: Caller) -> None:
    """Another workspace's thing does not exist, for every call that names one."""
    await push(storage, ada, {"a": b"a"})
    made = await artifact(storage, ada, b"model")
    for call in (
        storage.datasets.get(eve, "digits"),
        storage.datasets.delete(eve, "digits"),
        storage.datasets.get_version(eve, "digits", 1),
        storage.datasets.list_versions(eve, "digits", Page(9, None, "v")),
        storage.datasets.file(eve, "digits", 1, "a"),
        storage.datasets.create_version(eve, "digits", new({"a": b"a"})),
        storage.artifacts.get(eve, made.id),
        storage.artifacts.delete(eve, made.id),
        storage.artifacts.create(eve, NewArtifact(sha256(b"model"), "", "", "", {})),
    ):
        with pytest.raises(LeptonError) as raised:
            await call
        assert raised.value.wire.grpc_name == "NOT_FOUND"
    assert (await storage.datasets.list(eve, Page(9, None, "d")))[0] == []
    assert (await storage.artifacts.list(eve, Page(9, None, "a")))[0] == []
    assert [one.id for one in (await storage.datasets.list(ada, Page(9, None, "d")))[0]] == [
        "digits"
    ]


async def test_a_job_reads_its_inputs_alone(storage: Storage, ada: Caller, job: Caller) -> None:
    """Version 1 is granted, 2 is not; what does not exist looks the same as what is not granted."""
    await push(storage, ada, {"a": b"one"})
    version = await storage.datasets.get_version(job, "digits", 1)
    assert version.number == 1
    assert (await storage.datasets.get_version(job, "digits", LATEST)).number == 1
    assert (await storage.datasets.file(job, "digits", 1, "a")).sha256 == sha256(b"one")
    with pytest.raises(DatasetFileNotFound):
        await storage.datasets.file(job, "digits", 1, "b")
    await push(storage, ada, {"a": b"two"})
    for dataset, number in (("digits", 2), ("digits", LATEST), ("digits", 9), ("none", LATEST)):
        with pytest.raises(ResourceNotGranted):
            await storage.datasets.get_version(job, dataset, number)
    with pytest.raises(ResourceNotGranted):
        await storage.datasets.file(job, "digits", 2, "a")


async def test_a_job_reads_its_own_artifacts(storage: Storage, ada: Caller, job: Caller) -> None:
    """What it made it may read, under its own name whatever it says; others' only when granted."""
    own = await artifact(storage, job, b"made by the job", source="users/ada")
    assert own.source == "jobs/j1"
    assert await storage.artifacts.get(job, own.id) == own
    other = await artifact(storage, ada, b"made by ada")
    for id in (other.id, "0" * 32):
        with pytest.raises(ResourceNotGranted):
            await storage.artifacts.get(job, id)
    with pytest.raises(StorageRequestInvalid, match="jobs/"):
        await artifact(storage, ada, b"smuggled in by ada", source="jobs/j1")
    granted = replace(job, reads=frozenset({other.name}))
    assert await storage.artifacts.get(granted, other.id) == other
    with pytest.raises(BlobNotFound):
        await storage.artifacts.create(job, NewArtifact(sha256(b"made by ada"), "", "", "", {}))


@pytest.mark.parametrize("field", ["media_type", "filename", "source", "labels"])
@pytest.mark.parametrize("text", ["a\0b", "a" * 300])
async def test_texts_that_no_database_holds_are_refused(
    storage: Storage, ada: Caller, field: str, text: str
) -> None:
    """NUL and too long, in whatever field of an artifact."""
    await send(storage, ada, b"model")
    asked = NewArtifact(sha256(b"model"), "", "", "", {})
    with pytest.raises(StorageRequestInvalid):
        value = {"k": text} if field == "labels" else text
        await storage.artifacts.create(ada, replace(asked, **{field: value}))


async def test_admins_alone_delete_what_jobs_made(
    storage: Storage, ada: Caller, job: Caller
) -> None:
    """A job may be about to register it; one's own uploads a developer deletes."""
    own = await artifact(storage, ada, b"made by ada")
    made = await artifact(storage, job, b"made by the job")
    await storage.artifacts.delete(ada, own.id)
    with pytest.raises(RoleTooLow, match="admin"):
        await storage.artifacts.delete(ada, made.id)
    assert await storage.artifacts.get(ada, made.id) == made
    await storage.artifacts.delete(replace(ada, role=Role.ADMIN), made.id)
    with pytest.raises(ArtifactNotFound):
        await storage.artifacts.get(ada, made.id)


async def test_the_training_service_deletes_checkpoints_alone(
    storage: Storage, ada: Caller, job: Caller, tmp_path: Path
) -> None:
    """Of jobs, in the workspace that it acts in, with their bytes; no model, no file of a user."""
    training = Caller("service", "services/training", "acme")

    async def make(caller: Caller, data: bytes, media_type: str) -> Artifact:
        sent = await send(storage, caller, data)
        made = await storage.artifacts.create(
            caller, NewArtifact(sha256(data), media_type, "checkpoint.pt", "", {})
        )
        await storage.uploads.delete(caller, sent.upload.id)
        return made

    kept = [
        await make(job, b"model", "application/onnx"),
        await make(ada, b"of ada", CHECKPOINT_MEDIA_TYPE),
    ]
    for one in kept:
        with pytest.raises(CallerNotAllowed, match="no checkpoint of a job"):
            await storage.artifacts.delete(training, one.id)
    checkpoint = await make(job, b"checkpoint", CHECKPOINT_MEDIA_TYPE)
    with pytest.raises(ArtifactNotFound):
        await storage.artifacts.delete(replace(training, workspace="other"), checkpoint.id)
    assert len(stored(tmp_path)) == 3
    await storage.artifacts.delete(training, checkpoint.id)
    with pytest.raises(ArtifactNotFound):
        await storage.artifacts.delete(training, checkpoint.id)
    storage.blobs.collect()
    assert len(stored(tmp_path)) == len(kept)


async def test_artifacts_are_listed_newest_first(storage: Storage, ada: Caller) -> None:
    """Page by page, each once."""
    made = [await artifact(storage, ada, b"%d" % n) for n in range(3)]
    first, token = await storage.artifacts.list(ada, Page(2, None, "a"))
    assert [one.id for one in first] == [made[2].id, made[1].id]
    assert token
    rest, token = await storage.artifacts.list(ada, Page(2, (first[-1].sequence,), "a"))
    assert ([one.id for one in rest], token) == ([made[0].id], "")
