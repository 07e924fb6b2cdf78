"""Artifacts that something needs: they stay until the last that needs them lets go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from lepton_mesh.caller import Caller, Role
from lepton_storage.artifacts import NewArtifact
from lepton_storage.bootstrap import Storage
from lepton_storage.errors import ArtifactHeld, ArtifactNotFound, StorageRequestInvalid
from lepton_storage.records import Artifact, Hold
from tests.unit.storage.traffic import on_disk, send, sha256

REGISTRY = Caller("service", "services/registry", "acme")
FIRST, SECOND = "1" * 32, "2" * 32


async def _artifact(storage: Storage, caller: Caller, data: bytes) -> Artifact:
    progress = await send(storage, caller, data)
    made = await storage.artifacts.create(caller, NewArtifact(sha256(data), "", "", "", {}))
    await storage.uploads.delete(caller, progress.upload.id)  # which would keep the bytes, too
    return made


async def _hold(storage: Storage, id: str, artifacts: Sequence[str], missing: bool = False) -> None:
    hold = Hold(id, "acme", "models/digits", artifacts)
    await storage.artifacts.hold(hold, allow_missing=missing)


async def test_what_is_held_nobody_deletes(storage: Storage, ada: Caller) -> None:
    """The refusal names the holder; after the release it is an artifact like others."""
    made = await _artifact(storage, ada, b"model")
    for _ in range(2):
        await _hold(storage, FIRST, [made.id])
    for caller in (ada, replace(ada, role=Role.ADMIN)):
        with pytest.raises(ArtifactHeld, match="models/digits") as refused:
            await storage.artifacts.delete(caller, made.id)
        assert refused.value.metadata["holder"] == "models/digits"
    for _ in range(2):
        await storage.artifacts.release(REGISTRY, FIRST, delete_unheld=False)
    assert await storage.artifacts.get(ada, made.id) == made
    await storage.artifacts.delete(ada, made.id)


async def test_the_last_hold_takes_the_artifact_with_it(
    storage: Storage, ada: Caller, tmp_path: Path
) -> None:
    """Bytes and all, but not while another hold keeps it, nor for another workspace."""
    made = await _artifact(storage, ada, b"shared by two models")
    await _hold(storage, FIRST, [made.id])
    await _hold(storage, SECOND, [made.id])
    stranger = replace(REGISTRY, workspace="other")
    await storage.artifacts.release(stranger, SECOND, delete_unheld=True)
    await storage.artifacts.release(REGISTRY, FIRST, delete_unheld=True)
    assert await storage.artifacts.get(ada, made.id) == made
    with pytest.raises(ArtifactHeld):
        await storage.artifacts.delete(ada, made.id)
    await storage.artifacts.release(REGISTRY, SECOND, delete_unheld=True)
    with pytest.raises(ArtifactNotFound):
        await storage.artifacts.get(ada, made.id)
    storage.maintain()
    assert on_disk(tmp_path) == []


async def test_all_are_held_or_none(storage: Storage, ada: Caller) -> None:
    """One that is missing is named, unless that is allowed."""
    made = await _artifact(storage, ada, b"model")
    with pytest.raises(ArtifactNotFound, match="gone"):
        await _hold(storage, FIRST, [made.id, "gone"])
    await storage.artifacts.delete(ada, made.id)
    made = await _artifact(storage, ada, b"model")
    await _hold(storage, FIRST, [made.id, "gone"], missing=True)
    with pytest.raises(ArtifactHeld):
        await storage.artifacts.delete(ada, made.id)


@pytest.mark.parametrize(
    ("hold", "holder"), [("", "m"), ("A" * 32, "m"), ("1" * 33, "m"), (FIRST, "m" * 256)]
)
async def test_bad_holds(storage: Storage, hold: str, holder: str) -> None:
    """Ids that are none, and holders that nobody could read."""
    with pytest.raises(StorageRequestInvalid):
        await storage.artifacts.hold(Hold(hold, "acme", holder, []), allow_missing=False)
