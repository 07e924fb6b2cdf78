"""The records against SQLite and PostgreSQL."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event

from lepton_mesh.database import Database, differences
from lepton_mesh.resources import EtagMismatch
from lepton_storage.adapters.sql_artifacts import SqlArtifactRecords
from lepton_storage.adapters.sql_datasets import SqlDatasetRecords
from lepton_storage.adapters.sql_keys import SqlKeyRecords
from lepton_storage.adapters.sql_uploads import SqlUploadRecords
from lepton_storage.errors import (
    ArtifactHeld,
    ArtifactNotFound,
    BlobNotFound,
    DatasetExists,
    DatasetNotFound,
    UploadNotFound,
)
from lepton_storage.models import Base
from lepton_storage.records import (
    Artifact,
    Blob,
    DataFile,
    Dataset,
    DatasetFormat,
    DatasetVersion,
    Hold,
    Upload,
    WorkspaceKey,
)

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def key(database: Database, workspace: str = "acme") -> WorkspaceKey:
    return SqlKeyRecords(database).add(WorkspaceKey(uuid.uuid4().hex, workspace, "kek", b"wrapped"))


def upload(sha256: str = "a" * 64, **values: object) -> Upload:
    made = Upload(uuid.uuid4().hex, "acme", "users/ada", "", 4, sha256, NOW, LATER)
    return replace(made, **values)


def complete(database: Database, sha256: str = "a" * 64) -> Blob:
    """A blob with the upload that ended in it."""
    records = SqlUploadRecords(database)
    begun = records.create(upload(sha256), reuse=False)
    blob = Blob(begun.id, "acme", sha256, 4, key(database).id)
    records.complete(begun, blob)
    return blob


def dataset(database: Database) -> Dataset:
    made = Dataset("d", "acme", "text", {"k": "v"}, "users/ada", NOW)
    return SqlDatasetRecords(database).create(made)


def version(blob: Blob, digest: str = "sha256:1") -> DatasetVersion:
    return DatasetVersion(
        dataset="d",
        number=0,
        format=DatasetFormat.RAW,
        digest=digest,
        manifest=b"{}",
        signature="s",
        size_bytes=4,
        statistics={"files": "1"},
        description="",
        labels={},
        creator="users/ada",
        create_time=NOW,
        files=(DataFile("a", "text/plain", blob),),
    )


def at_once(*calls):
    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result() for future in [threads.submit(call) for call in calls]]


def test_the_migrations_make_the_tables(database: Database) -> None:
    """Revisions and models say the same."""
    assert differences(database.engine, Base.metadata) == []


def test_a_workspace_has_one_current_key(database: Database) -> None:
    """Whoever is first wins, and a destroyed key makes room for another."""
    records = SqlKeyRecords(database)
    made = at_once(*(lambda: key(database) for _ in range(4)))
    assert len({one.id for one in made}) == 1
    assert records.current("acme") == made[0]
    assert records.current("other") is None
    rewrapped = replace(made[0], kek_id="kek2", wrapped=b"again")
    records.rewrap(rewrapped)
    assert records.alive() == [rewrapped]
    assert records.destroy("acme") == 1
    records.rewrap(rewrapped)
    assert records.alive() == []
    assert records.get(made[0].id) == replace(rewrapped, wrapped=None)
    assert key(database).id != made[0].id


def test_uploads_come_back(database: Database) -> None:
    """As they were stored, to their workspace only."""
    records = SqlUploadRecords(database)
    made = records.create(upload(), reuse=True)
    assert records.get("acme", made.id) == made
    assert records.get("other", made.id) is None
    assert records.incomplete() == [made]
    assert records.known([made.id, "f" * 32]) == {made.id}
    records.delete("other", made.id)
    assert records.incomplete() == [made]
    records.delete("acme", made.id)
    assert records.incomplete() == []


def test_a_request_id_makes_one_upload(database: Database) -> None:
    """Also when several ask at once."""
    records = SqlUploadRecords(database)
    made = at_once(*(lambda: records.create(upload(request_id="r"), reuse=True) for _ in range(4)))
    assert len({one.id for one in made}) == 1


def test_equal_bytes_end_in_one_blob(database: Database) -> None:
    """Also when several uploads complete at once; completing again changes nothing."""
    records = SqlUploadRecords(database)
    key_id = key(database).id
    begun = [records.create(upload(), reuse=False) for _ in range(4)]

    def finish(one: Upload):
        return lambda: records.complete(one, Blob(one.id, "acme", one.sha256, 4, key_id))

    done = at_once(*(finish(one) for one in begun))
    assert len({one.blob_id for one in done}) == 1
    assert finish(begun[0])() == done[0]
    asked = ["a" * 64, "b" * 64]
    found = records.find_blobs("acme", asked, None)
    assert [blob.id for blob in found.values()] == [done[0].blob_id]
    assert records.find_blobs("acme", asked, "users/ada") == found
    assert records.find_blobs("acme", asked, "jobs/j1") == {}
    assert records.find_blobs("other", asked, None) == {}
    assert records.create(upload(), reuse=True).complete
    assert not records.create(upload(size_bytes=5), reuse=True).complete
    records.delete("acme", begun[1].id)
    with pytest.raises(UploadNotFound):
        finish(begun[1])()


def test_only_what_nothing_refers_to_is_collected(database: Database) -> None:
    """An upload, a version and an artifact each keep their blob."""
    uploads, datasets = SqlUploadRecords(database), SqlDatasetRecords(database)
    artifacts = SqlArtifactRecords(database)
    blobs = [complete(database, digit * 64) for digit in "abc"]
    made = dataset(database)
    datasets.add_version(made, version(blobs[0]))
    kept = artifacts.create(Artifact("1" * 32, "acme", blobs[1], "", "f", "", {}, NOW))
    assert uploads.collect() == []
    assert len(uploads.delete_expired(NOW)) == 0
    assert len(uploads.delete_expired(LATER)) == 3
    assert uploads.collect() == [blobs[2]]
    assert datasets.delete("acme", "d")
    assert not datasets.delete("acme", "d")
    assert uploads.collect() == [blobs[0]]
    assert artifacts.delete("acme", kept.id)
    assert uploads.collect() == [blobs[1]]
    condemned = uploads.condemned()
    assert sorted(condemned) == sorted(blob.id for blob in blobs)
    uploads.executed(condemned[:2])
    assert uploads.condemned() == condemned[2:]


def test_holds_keep_artifacts(database: Database) -> None:
    """The last one that ends may take them with it; a hold stored again is one hold."""
    artifacts = SqlArtifactRecords(database)
    blob = complete(database)
    for id in "12":
        artifacts.create(Artifact(id * 32, "acme", blob, "", "f", "", {}, NOW))
    both = Hold("a" * 32, "acme", "models/m", ["1" * 32, "2" * 32])
    with pytest.raises(ArtifactNotFound, match="gone"):
        artifacts.hold(replace(both, artifacts=[*both.artifacts, "gone"]), False)
    artifacts.hold(replace(both, id="b" * 32, artifacts=["2" * 32, "gone"]), True)
    at_once(*(lambda: artifacts.hold(both, False) for _ in range(4)))
    with pytest.raises(ArtifactHeld, match="models/m"):
        artifacts.delete("acme", "1" * 32)
    artifacts.release("other", "a" * 32, True)
    with pytest.raises(ArtifactHeld):
        artifacts.delete("acme", "1" * 32)
    artifacts.release("acme", "a" * 32, True)
    assert artifacts.get("acme", "1" * 32) is None
    with pytest.raises(ArtifactHeld):
        artifacts.delete("acme", "2" * 32)
    artifacts.release("acme", "b" * 32, False)
    artifacts.release("acme", "b" * 32, True)
    assert artifacts.delete("acme", "2" * 32)


def test_an_artifact_is_held_or_deleted(database: Database) -> None:
    """Whoever is first: never is a hold stored over what is gone at the same moment."""
    artifacts = SqlArtifactRecords(database)
    blob = complete(database)

    def tried(call: Callable[[], object]) -> Callable[[], bool]:
        def run() -> bool:
            try:
                call()
            except (ArtifactHeld, ArtifactNotFound):
                return False
            return True

        return run

    for n in range(10):
        id = f"{n:032x}"
        artifacts.create(Artifact(id, "acme", blob, "", "f", "", {}, NOW))
        held, deleted = at_once(
            tried(lambda id=id: artifacts.hold(Hold(id, "acme", "m", [id]), False)),
            tried(lambda id=id: artifacts.delete("acme", id)),
        )
        assert held != deleted
        assert (artifacts.get("acme", id) is not None) == held


def test_what_is_given_up_is_condemned(database: Database) -> None:
    """An incomplete upload's object and one that is there already; never a blob's own."""
    records = SqlUploadRecords(database)
    blob = complete(database)
    begun = [records.create(upload(), reuse=False) for _ in range(4)]
    records.complete(begun[0], replace(blob, id=begun[0].id))
    records.delete("acme", begun[1].id)
    assert set(records.condemned()) == {begun[0].id, begun[1].id}
    records.delete("acme", begun[0].id)
    assert SqlKeyRecords(database).destroy("acme") == 1
    assert set(records.condemned()) == {one.id for one in begun}


def test_what_was_collected_cannot_be_referred_to(database: Database) -> None:
    """A version or an artifact of a blob that has just gone is refused whole."""
    uploads, datasets = SqlUploadRecords(database), SqlDatasetRecords(database)
    blob = complete(database)
    made = dataset(database)
    uploads.delete_expired(LATER)
    uploads.collect()
    with pytest.raises(BlobNotFound):
        datasets.add_version(made, version(blob))
    assert datasets.get_version("acme", "d", 0) is None
    with pytest.raises(BlobNotFound):
        SqlArtifactRecords(database).create(Artifact("1" * 32, "acme", blob, "", "", "", {}, NOW))


def test_versions_are_numbered_one_by_one(database: Database) -> None:
    """Also when several are made at once, and the same content once."""
    records = SqlDatasetRecords(database)
    blob, made = complete(database), dataset(database)
    at_once(
        *(lambda n=n: records.add_version(made, version(blob, f"sha256:{n}")) for n in range(4))
    )
    again = records.add_version(made, version(blob, "sha256:2"))
    assert again.manifest == b"{}"
    assert {one.manifest for one in records.list_versions(made, 0, 9)} == {b""}
    assert [one.number for one in records.list_versions(made, 0, 9)] == [4, 3, 2, 1]
    assert [one.number for one in records.list_versions(made, 3, 1)] == [2]
    assert records.find_version(made, "sha256:2") == again
    newest = records.get_version("acme", "d", 0)
    assert newest is not None
    assert newest == records.get_version("acme", "d", 4)
    assert newest.files == version(blob).files
    assert records.get_blob("acme", "d", 4, "a") == blob
    assert records.get_blob("acme", "d", 4, "b") is None
    assert records.get_blob("other", "d", 4, "a") is None
    assert records.get_version("other", "d", 1) is None


def test_many_files_take_few_statements(database: Database) -> None:
    """A version of a thousand files is looked up and stored in batches."""
    blobs = [complete(database, f"{n:064x}") for n in range(20)]
    files = tuple(DataFile(f"{n:04}", "text/plain", blobs[n % 20]) for n in range(1000))
    made = dataset(database)
    statements: list[str] = []

    def count(_conn, _cursor, statement, *_):
        statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", count)
    SqlUploadRecords(database).find_blobs("acme", [blob.sha256 for blob in blobs], None)
    stored = SqlDatasetRecords(database).add_version(made, replace(version(blobs[0]), files=files))
    event.remove(database.engine, "before_cursor_execute", count)
    assert len(statements) < 20
    assert SqlDatasetRecords(database).get_version("acme", "d", 1) == stored


def test_a_dataset_that_has_changed_is_not_deleted(database: Database) -> None:
    """Neither one with a version more, nor another that was made in its place."""
    records = SqlDatasetRecords(database)
    made = dataset(database)
    assert not records.delete("acme", "other", made.etag)
    records.add_version(made, version(complete(database)))
    with pytest.raises(EtagMismatch):
        records.delete("acme", "d", made.etag)
    filled = records.get("acme", "d")
    assert filled is not None
    assert filled.latest == 1
    assert records.delete("acme", "d", filled.etag)
    remade = records.create(replace(made, create_time=LATER))
    for before in (made, filled):
        with pytest.raises(EtagMismatch):
            records.delete("acme", "d", before.etag)
    assert records.delete("acme", "d", remade.etag)


def test_datasets_are_unique_in_a_workspace(database: Database) -> None:
    """Another workspace may use the same id; a deleted one is gone with its versions."""
    records = SqlDatasetRecords(database)
    made = dataset(database)
    with pytest.raises(DatasetExists):
        dataset(database)
    records.create(replace(made, workspace="other"))
    assert records.get("acme", "d") == made
    assert records.list("acme", "", 9) == [made]
    assert records.list("acme", "d", 9) == []
    blob = complete(database)
    records.add_version(made, version(blob))
    records.delete("acme", "d")
    with pytest.raises(DatasetNotFound):
        records.add_version(made, version(blob))
    assert records.get_version("acme", "d", 1) is None
