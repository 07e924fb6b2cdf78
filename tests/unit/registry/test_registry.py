"""Models, versions and aliases: what may be registered, and what may change afterwards."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from lepton.api.registry.v1 import registry_pb2
from lepton_mesh.authorization import check_complete
from lepton_mesh.caller import Caller, ResourceNotGranted
from lepton_mesh.resources import EtagMismatch
from lepton_registry.errors import (
    AliasNotFound,
    ArtifactMismatch,
    InvalidAlias,
    InvalidVersion,
    ModelExists,
    ModelNotFound,
    RequestIdTaken,
    TooManyAliases,
    VersionAliased,
    VersionArchived,
    VersionNotFound,
)
from lepton_registry.records import Lineage, State
from lepton_registry.registry import MAX_ALIASES, Change, Registry
from lepton_registry.servicer import TABLE
from tests.unit.registry.conftest import ADA, Clock
from tests.unit.registry.fake_storage import SHA, FakeArtifacts, new_version

JOB = Caller("job", "jobs/j1", "lab", writes=frozenset({"models/digits", "jobs/j1"}))


def test_every_rpc_has_a_rule_and_no_other() -> None:
    """The table is that of the proto."""
    check_complete(TABLE, [registry_pb2.DESCRIPTOR.services_by_name["RegistryService"]])


async def test_versions_count_from_one(registry: Registry) -> None:
    """The registry gives the numbers, one after the other, also to many at once."""
    made = await asyncio.gather(
        *(registry.create_version(ADA, "digits", new_version(), "") for _ in range(5))
    )
    assert sorted(version.number for version in made) == [1, 2, 3, 4, 5]
    model = await registry.get_model(ADA, "digits")
    assert model.latest == 5
    newest = await registry.get_version(ADA, "digits", "latest")
    assert (newest.number, newest.size_bytes, newest.creator) == (5, 1234, "users/ada")
    assert newest.state is State.READY


async def test_a_request_id_finds_its_version(registry: Registry) -> None:
    """Sent again it registers nothing; for another file it is refused."""
    first = await registry.create_version(ADA, "digits", new_version(), "r1")
    again = await registry.create_version(ADA, "digits", new_version(), "r1")
    assert again == first
    with pytest.raises(RequestIdTaken):
        await registry.create_version(ADA, "digits", new_version(sha256="b" * 64), "r1")


async def test_the_file_must_be_in_storage(registry: Registry) -> None:
    """With the digest given; attachments too."""
    with pytest.raises(ArtifactMismatch, match="upload it first"):
        await registry.create_version(ADA, "digits", new_version(artifact="artifacts/none"), "")
    with pytest.raises(ArtifactMismatch, match="has SHA-256 aaaa"):
        await registry.create_version(ADA, "digits", new_version(sha256="b" * 64), "")
    attached = new_version(attachments={"report.json": "artifacts/none"})
    with pytest.raises(ArtifactMismatch, match="artifacts/none"):
        await registry.create_version(ADA, "digits", attached, "")
    assert (await registry.get_model(ADA, "digits")).latest == 0


async def test_storage_is_not_asked_for_what_is_wrong(
    registry: Registry, artifacts: FakeArtifacts
) -> None:
    """A malformed version or an unknown model costs no call."""
    with pytest.raises(InvalidVersion):
        await registry.create_version(ADA, "digits", new_version(sha256="ABC"), "")
    with pytest.raises(ModelNotFound):
        await registry.create_version(ADA, "letters", new_version(), "")
    assert artifacts.asked == 0


async def test_jobs_write_their_own_models_only(registry: Registry) -> None:
    """And the lineage of what a job registers names that job."""
    version = await registry.create_version(JOB, "digits", new_version(), "")
    assert (version.lineage.job, version.creator) == ("jobs/j1", "jobs/j1")
    other = new_version(lineage=Lineage(job="jobs/j2"))
    with pytest.raises(InvalidVersion, match="jobs/j2"):
        await registry.create_version(JOB, "digits", other, "")
    learned = new_version(lineage=Lineage(dataset_version="datasets/d/versions/1"))
    with pytest.raises(ResourceNotGranted, match="datasets/d/versions/1"):
        await registry.create_version(JOB, "digits", learned, "")
    granted = replace(JOB, reads=frozenset({"datasets/d/versions/1", "artifacts/c1"}))
    await registry.create_version(granted, "digits", learned, "")
    own = new_version(lineage=Lineage(code_artifact="artifacts/c1", code_digest="sha256:" + SHA))
    with pytest.raises(ResourceNotGranted, match="artifacts/c1"):
        await registry.create_version(JOB, "digits", own, "")
    kept = await registry.create_version(granted, "digits", own, "")
    assert kept.lineage.code_digest == "sha256:" + SHA
    for wrong in (Lineage(code_digest="sha256:x"), Lineage(code_artifact="models/m")):
        with pytest.raises(InvalidVersion, match=r"lineage\.code_"):
            await registry.create_version(ADA, "digits", new_version(lineage=wrong), "")
    for refused in (
        registry.create_version(JOB, "letters", new_version(), ""),
        registry.create_model(JOB, "letters", "", {}),
        registry.get_model(JOB, "letters"),
    ):
        with pytest.raises(ResourceNotGranted):
            await refused


async def test_workspaces_do_not_see_each_other(registry: Registry) -> None:
    """The same id elsewhere is another model."""
    stranger = replace(ADA, workspace="elsewhere")
    with pytest.raises(ModelNotFound):
        await registry.get_model(stranger, "digits")
    assert await registry.list_models(stranger, "", 10) == ([], False)
    await registry.create_model(stranger, "digits", "theirs", {})
    await registry.delete_model(stranger, "digits")
    assert (await registry.get_model(ADA, "digits")).description == ""
    with pytest.raises(ModelExists):
        await registry.create_model(ADA, "digits", "", {})


async def test_aliases_lead_to_versions(registry: Registry) -> None:
    """They are set, moved, resolved and deleted; each changes the model's etag."""
    for _ in range(2):
        await registry.create_version(ADA, "digits", new_version(), "")
    first = await registry.set_alias(ADA, "digits", "production", "1")
    moved = await registry.set_alias(ADA, "digits", "production", "latest")
    assert moved.aliases == {"production": 2}
    assert moved.etag != first.etag
    assert (await registry.resolve_alias(ADA, "digits", "production")).number == 2
    await registry.delete_alias(ADA, "digits", "production")
    with pytest.raises(AliasNotFound):
        await registry.resolve_alias(ADA, "digits", "production")
    with pytest.raises(AliasNotFound):
        await registry.delete_alias(ADA, "digits", "production")
    with pytest.raises(InvalidAlias):
        await registry.set_alias(ADA, "digits", "latest", "1")
    with pytest.raises(VersionNotFound):
        await registry.set_alias(ADA, "digits", "production", "9")


async def test_a_model_has_so_many_aliases(registry: Registry) -> None:
    """One more is refused; those that are there can still be moved, and deleted to make room."""
    for _ in range(2):
        await registry.create_version(ADA, "digits", new_version(), "")
    for n in range(MAX_ALIASES):
        await registry.set_alias(ADA, "digits", f"a{n}", "1")
    with pytest.raises(TooManyAliases, match="delete one first"):
        await registry.set_alias(ADA, "digits", "more", "1")
    assert (await registry.set_alias(ADA, "digits", "a0", "2")).aliases["a0"] == 2
    await registry.delete_alias(ADA, "digits", "a1")
    await registry.set_alias(ADA, "digits", "more", "1")


async def test_pages_end_by_count_and_by_size(registry: Registry) -> None:
    """Every version comes once; two that are too large for one page have a page each."""
    names = tuple(f"{n}" * 40 for n in range(10_000, 13_000))  # 0.6 MiB as JSON
    for class_names in ((), names, names, (), (), ()):
        await registry.create_version(ADA, "digits", new_version(class_names=class_names), "")
    pages, before, more = [], None, True
    while more:
        versions, more = await registry.list_versions(ADA, "digits", before, 3)
        pages.append([version.number for version in versions])
        before = versions[-1].number
    assert pages == [[6, 5, 4], [3], [2, 1]]
    await registry.create_model(ADA, "letters", "", {})
    models, more = await registry.list_models(ADA, "", 1)
    assert ([model.id for model in models], more) == (["digits"], True)
    assert not (await registry.list_models(ADA, "digits", 1))[1]


async def test_aliases_never_lead_to_archived_versions(registry: Registry) -> None:
    """Neither by setting the alias nor by archiving the version."""
    for _ in range(2):
        await registry.create_version(ADA, "digits", new_version(), "")
    await registry.set_alias(ADA, "digits", "production", "1")
    archive = Change(state=State.ARCHIVED)
    with pytest.raises(VersionAliased, match="production"):
        await registry.update_version(ADA, "digits", "1", "", archive)
    await registry.update_version(ADA, "digits", "2", "", archive)
    with pytest.raises(VersionArchived):
        await registry.set_alias(ADA, "digits", "production", "2")
    await registry.update_version(ADA, "digits", "2", "", Change(state=State.READY))
    await registry.set_alias(ADA, "digits", "production", "2")


async def test_changes_are_guarded_by_etags(registry: Registry) -> None:
    """Of two changes from one reading, the second must read again."""
    version = await registry.create_version(ADA, "digits", new_version(), "")
    changed = await registry.update_version(
        ADA, "digits", "1", version.etag, Change(description="good")
    )
    assert changed.description == "good"
    with pytest.raises(EtagMismatch):
        await registry.update_version(ADA, "digits", "1", version.etag, Change(description="bad"))
    model = await registry.get_model(ADA, "digits")
    await registry.update_model(ADA, "digits", model.etag, Change(labels={"a": "b"}))
    with pytest.raises(EtagMismatch):
        await registry.update_model(ADA, "digits", model.etag, Change(labels={}))


async def test_a_model_made_anew_has_another_etag(registry: Registry, clock: Clock) -> None:
    """Neither it nor its version 1 is taken for what was deleted under that name."""
    etags = []
    for _ in range(2):
        clock.now += timedelta(microseconds=1)
        await registry.delete_model(ADA, "digits")
        model = await registry.create_model(ADA, "digits", "", {})
        version = await registry.create_version(ADA, "digits", new_version(), "")
        assert (await registry.get_version(ADA, "digits", "1")).etag == version.etag
        etags += [model.etag, version.etag]
    assert len(set(etags[::2])) == len(set(etags[1::2])) == 2


@pytest.mark.parametrize("number", ["0", "2", "-1", "x", "", "99999999999999999999"])
async def test_versions_that_are_not_there(registry: Registry, number: str) -> None:
    """Whatever the number, the answer names the newest."""
    await registry.create_version(ADA, "digits", new_version(), "")
    with pytest.raises(VersionNotFound, match="the newest is 1"):
        await registry.get_version(ADA, "digits", number)
