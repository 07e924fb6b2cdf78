"""Files of versions: held while a version has them, gone with the last that had them."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import AsyncIterator
from types import ModuleType

import pytest
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from lepton_mesh.database import create_engine
from lepton_mesh.errors import Unavailable
from lepton_registry import files as files_module
from lepton_registry.adapters.sql import SqlStore
from lepton_registry.errors import ArtifactMismatch, ModelNotFound, RegistrationExpired
from lepton_registry.files import REGISTRATION, Files
from lepton_registry.ports import Artifact
from lepton_registry.records import Hold, Phase
from lepton_registry.registry import Registry
from tests.unit.registry.conftest import ADA, Clock
from tests.unit.registry.fake_storage import SHA, FakeArtifacts, new_version


@contextlib.asynccontextmanager
async def _running(files: Files) -> AsyncIterator[None]:
    task = asyncio.create_task(files.run())
    yield
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _settle(files: Files) -> None:
    while await files.settle():
        pass


async def test_the_files_of_a_version_are_held(
    registry: Registry, artifacts: FakeArtifacts, files: Files
) -> None:
    """From before it is registered, and for as long as it is."""
    artifacts.stored["artifacts/r1"] = Artifact(SHA, 1)
    version = new_version(attachments={"report.json": "artifacts/r1"})
    await registry.create_version(ADA, "digits", version, "")
    await _settle(files)
    assert list(artifacts.holds.values()) == [{"artifacts/a1", "artifacts/r1"}]


async def test_a_deleted_models_files_go(
    registry: Registry, artifacts: FakeArtifacts, files: Files
) -> None:
    """But those that another model has; they go with that."""
    for name in ("shared", "own"):
        artifacts.stored[f"artifacts/{name}"] = Artifact(SHA, 1)
    await registry.create_model(ADA, "other", "", {})
    await registry.create_version(ADA, "other", new_version(artifact="artifacts/shared"), "")
    attached = {"a": "artifacts/shared", "c": "artifacts/own"}
    await registry.create_version(ADA, "digits", new_version(attachments=attached), "")
    await registry.delete_model(ADA, "digits")
    with pytest.raises(ModelNotFound):
        await registry.get_model(ADA, "digits")
    await _settle(files)
    assert set(artifacts.stored) == {"artifacts/shared"}
    await registry.delete_model(ADA, "other")
    await _settle(files)
    assert not artifacts.stored
    assert not artifacts.holds


async def test_files_that_cannot_go_now_go_after_a_restart(
    registry: Registry, artifacts: FakeArtifacts, store: SqlStore, clock: Clock
) -> None:
    """Storage is away when the model is deleted: the database knows what is left to do."""
    await registry.create_version(ADA, "digits", new_version(), "")
    artifacts.away = True
    await registry.delete_model(ADA, "digits")
    with pytest.raises(Unavailable):
        await Files(store, artifacts, clock).settle()
    artifacts.away = False
    await _settle(Files(store, artifacts, clock))
    assert not artifacts.stored


async def test_deleting_a_model_wakes_who_lets_its_files_go(
    registry: Registry, artifacts: FakeArtifacts, files: Files
) -> None:
    """They go at once, not with the next round."""
    async with _running(files):
        await registry.create_version(ADA, "digits", new_version(), "")
        await registry.delete_model(ADA, "digits")
        await asyncio.wait_for(artifacts.released.wait(), 10)
    assert not artifacts.stored


async def test_storage_that_was_away_is_asked_again(
    registry: Registry,
    artifacts: FakeArtifacts,
    files: Files,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a pause, and the log says that files wait."""
    monkeypatch.setattr(files_module, "_PAUSE_SECONDS", 0.01)
    await registry.create_version(ADA, "digits", new_version(), "")
    artifacts.away = True
    async with _running(files):
        await registry.delete_model(ADA, "digits")
        await asyncio.wait_for(artifacts.refused.wait(), 10)
        artifacts.away = False
        await asyncio.wait_for(artifacts.released.wait(), 10)
    assert "files of models wait for storage" in caplog.messages
    assert not artifacts.stored


async def test_what_is_never_registered_is_let_go(
    artifacts: FakeArtifacts, files: Files, clock: Clock
) -> None:
    """After a while, and the file stays; until then another may be registered with it."""
    hold_id, size_bytes = await files.hold(ADA, "digits", new_version())
    assert size_bytes == 1234
    clock.now += REGISTRATION
    await _settle(files)
    assert set(artifacts.holds) == {hold_id}
    clock.now += REGISTRATION
    await _settle(files)
    assert not artifacts.holds
    assert artifacts.stored


async def test_a_registration_that_comes_too_late_is_refused(
    registry: Registry,
    artifacts: FakeArtifacts,
    files: Files,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its file may be gone by then; sent again it is registered."""
    hold = artifacts.hold

    async def slow(held: Hold) -> None:
        await hold(held)
        clock.now += 2 * REGISTRATION
        await _settle(files)

    with monkeypatch.context() as once:
        once.setattr(artifacts, "hold", slow)
        with pytest.raises(RegistrationExpired, match="send it again"):
            await registry.create_version(ADA, "digits", new_version(), "")
    assert (await registry.get_model(ADA, "digits")).latest == 0
    await registry.create_version(ADA, "digits", new_version(), "")


async def test_a_file_that_is_deleted_meanwhile_is_missed(
    registry: Registry, artifacts: FakeArtifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the question whether it is there and the hold: nothing is registered."""
    find = artifacts.find

    async def last_seen(name: str) -> Artifact | None:
        found = await find(name)
        artifacts.stored.clear()
        return found

    monkeypatch.setattr(artifacts, "find", last_seen)
    with pytest.raises(ArtifactMismatch, match="upload it again"):
        await registry.create_version(ADA, "digits", new_version(), "")
    assert (await registry.get_model(ADA, "digits")).latest == 0


async def test_of_two_equal_requests_one_holds(
    registry: Registry, artifacts: FakeArtifacts, files: Files
) -> None:
    """Both find one version, and the model takes the file with it all the same."""
    versions = await asyncio.gather(
        *(registry.create_version(ADA, "digits", new_version(), "r1") for _ in range(2))
    )
    assert versions[0] == versions[1]
    await _settle(files)
    assert len(artifacts.holds) == 1
    await registry.delete_model(ADA, "digits")
    await _settle(files)
    assert not artifacts.stored


async def test_versions_from_before_holds_are_held_first(
    registry: Registry, artifacts: FakeArtifacts, files: Files, store: SqlStore, clock: Clock
) -> None:
    """A shared file stays when the first of two such models is deleted; a lost one is left out."""
    for model in ("digits", "letters"):
        hold = Hold(
            id=model.ljust(32, "0"),
            workspace="lab",
            model=model,
            artifacts=("artifacts/a1", "artifacts/lost"),
            phase=Phase.KEPT,
            since=clock.now,
        )
        await store.write(lambda records, hold=hold: records.holds.add(hold))
    await registry.delete_model(ADA, "digits")
    await _settle(files)
    assert list(artifacts.holds.values()) == [{"artifacts/a1"}]
    assert artifacts.stored


def test_the_migration_holds_what_is_registered() -> None:
    """Each version's files, once each, as storage has yet to be told."""
    engine = create_engine("sqlite://")
    versions = sa.text(
        "INSERT INTO model_versions VALUES ('lab', 'digits', :number, 1, 'artifacts/a1', '', 1, "
        "'{}', '{}', '{}', '{}', '{}', '[]', '', '{}', :attachments, '', "
        "'2030-01-02 03:04:05', NULL, 1)"
    )
    with engine.connect() as connection:
        with Operations.context(MigrationContext.configure(connection)):
            _revision("0001_models_versions").upgrade()
            connection.exec_driver_sql(
                "INSERT INTO models VALUES "
                "('lab', 'digits', '', '{}', '{}', 2, '', '2030-01-02 03:04:05', 1)"
            )
            attached = '{"a": "artifacts/r1", "b": "artifacts/a1"}'
            connection.execute(
                versions,
                [{"number": 1, "attachments": "{}"}, {"number": 2, "attachments": attached}],
            )
            _revision("0002_artifact_holds").upgrade()
        rows = connection.execute(sa.text("SELECT * FROM artifact_holds")).all()
    assert sorted((row.workspace, row.model, row.artifacts) for row in rows) == [
        ("lab", "digits", '["artifacts/a1", "artifacts/r1"]'),
        ("lab", "digits", '["artifacts/a1"]'),
    ]
    assert {(row.phase, row.held) for row in rows} == {(Phase.KEPT, 0)}
    assert len({row.id for row in rows}) == 2
    engine.dispose()


def _revision(name: str) -> ModuleType:
    return importlib.import_module(f"lepton_registry.migrations.versions.{name}")
