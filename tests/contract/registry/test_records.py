"""The ports of the registry's records, on every database."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from lepton_mesh.database import Database, differences
from lepton_registry.adapters.sql import SqlStore
from lepton_registry.models import Base
from lepton_registry.ports import Records
from lepton_registry.records import (
    Hold,
    Lineage,
    Model,
    Phase,
    Signature,
    State,
    Tensor,
    Version,
)

NOW = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
MODEL = Model("m", "digits", {"team": "vision"}, "users/ada", NOW)
VERSION = Version(
    artifact="artifacts/a",
    sha256="0" * 64,
    signature=Signature(
        (Tensor("image", "FP32", (-1, 1, 28, 28), "grey"),), (Tensor("scores", "FP32", (-1, 10)),)
    ),
    metrics={"test_accuracy": 0.99},
    evaluation={"confusion": [[1, 2], [3, 4]]},
    parity={"max_abs_error": 1e-6},
    lineage=Lineage(
        "datasets/d/versions/1", "sha256:" + "1" * 64, "jobs/j", "abc", "cnn", {"lr": 1}
    ),
    class_names=("zero", "one"),
    description="first",
    labels={"stage": "test"},
    attachments={"report.json": "artifacts/b"},
    model="m",
    number=1,
    size_bytes=2**40,
    creator="jobs/j",
    created=NOW,
    request_id="r1",
)
HOLD = Hold(
    id="h" * 32,
    workspace="w",
    model="m",
    artifacts=("artifacts/a", "artifacts/b"),
    phase=Phase.REGISTERING,
    since=NOW,
)


@pytest.fixture
async def store(database: Database) -> SqlStore:
    store = SqlStore(database)
    assert await store.write(lambda records: records.models.add("w", MODEL))
    return store


def test_migrations_build_what_the_models_say(database: Database) -> None:
    """The revisions and the models describe one schema."""
    assert differences(database.engine, Base.metadata) == []


async def test_a_model_comes_back_as_stored(store: SqlStore) -> None:
    """Every field survives; the same id in another workspace is another model."""
    assert await store.read(lambda records: records.models.get("w", "m")) == MODEL
    assert await store.read(lambda records: records.models.get("v", "m")) is None
    assert not await store.write(lambda r: r.models.add("w", replace(MODEL, description="x")))
    assert await store.write(lambda records: records.models.add("v", MODEL))
    changed = replace(MODEL, aliases={"production": 3}, latest=3, revision=2)
    await store.write(lambda records: records.models.replace("w", changed))
    assert await store.read(lambda records: records.models.get("w", "m")) == changed
    assert await store.read(lambda records: records.models.get("v", "m")) == MODEL


async def test_models_page_by_id(store: SqlStore) -> None:
    """In order of id, within one workspace."""

    def more(records: Records) -> None:
        for name in ("z", "a", "k"):
            records.models.add("w", replace(MODEL, id=name))
        records.models.add("v", replace(MODEL, id="l"))

    await store.write(more)
    models = await store.read(lambda records: records.models.after("w", "a", 2))
    assert [model.id for model in models] == ["k", "m"]


async def test_a_version_comes_back_as_stored(store: SqlStore) -> None:
    """Every field survives, by number and by request id."""
    await store.write(lambda records: records.versions.add("w", VERSION))
    assert await store.read(lambda records: records.versions.get("w", "m", 1)) == VERSION
    assert await store.read(lambda r: r.versions.find_request("w", "m", "r1")) == VERSION
    assert await store.read(lambda r: r.versions.find_request("w", "m", "r2")) is None
    assert await store.read(lambda records: records.versions.get("v", "m", 1)) is None


async def test_only_papers_and_state_are_updated(store: SqlStore) -> None:
    """The file, its digest and its figures stay, whatever is given."""
    await store.write(lambda records: records.versions.add("w", VERSION))
    papers = {"description": "x", "labels": {}, "state": State.ARCHIVED, "revision": 2}
    wanted = replace(VERSION, **papers)
    tampered = replace(wanted, sha256="f" * 64, metrics={}, artifact="artifacts/z")
    await store.write(lambda records: records.versions.update("w", tampered))
    assert await store.read(lambda records: records.versions.get("w", "m", 1)) == wanted


async def test_versions_list_newest_first_without_reports(store: SqlStore) -> None:
    """Ten come after nine, and reports stay in the database."""

    def more(records: Records) -> None:
        for number in range(1, 12):
            records.versions.add("w", replace(VERSION, number=number, request_id=""))

    await store.write(more)
    newest = await store.read(lambda records: records.versions.before("w", "m", None, 3))
    assert [version.number for version in newest] == [11, 10, 9]
    assert newest[0] == replace(VERSION, number=11, request_id="", evaluation={}, parity={})
    rest = await store.read(lambda records: records.versions.before("w", "m", 3, 9))
    assert [version.number for version in rest] == [2, 1]


async def test_a_held_model_gives_each_its_own_number(store: SqlStore) -> None:
    """Of many that register at once, each sees the count of the one before."""

    def register(records: Records) -> int:
        model = records.models.get("w", "m")
        assert model is not None
        number = model.latest + 1
        records.models.replace("w", replace(model, latest=number))
        records.versions.add("w", replace(VERSION, number=number, request_id=""))
        return number

    numbers = await asyncio.gather(*(store.write(register) for _ in range(8)))
    assert sorted(numbers) == list(range(1, 9))


async def test_deleting_a_model_takes_its_versions(store: SqlStore) -> None:
    """And those of no other workspace."""

    def more(records: Records) -> None:
        records.models.add("v", MODEL)
        for workspace in ("v", "w"):
            records.versions.add(workspace, VERSION)

    await store.write(more)
    await store.write(lambda records: records.models.delete("w", "m"))
    assert await store.read(lambda records: records.versions.get("w", "m", 1)) is None
    assert await store.read(lambda records: records.versions.get("v", "m", 1)) == VERSION


async def test_holds_go_from_phase_to_phase(store: SqlStore) -> None:
    """Each ends once, and comes back as stored until it is forgotten."""

    def add(records: Records) -> None:
        for n, id in enumerate("abc"):
            since = NOW + timedelta(minutes=n)
            records.holds.add(replace(HOLD, id=id * 32, since=since))

    await store.write(add)
    assert await store.read(lambda records: records.holds.unheld(9)) == []
    assert await store.read(lambda records: records.holds.ended(9)) == []
    assert await store.write(lambda records: records.holds.conclude("a" * 32, Phase.KEPT))
    assert await store.write(lambda records: records.holds.conclude("b" * 32, Phase.RELEASED))
    await store.write(lambda records: records.holds.release(NOW + timedelta(minutes=2)))
    assert not await store.write(lambda records: records.holds.conclude("b" * 32, Phase.KEPT))
    released = replace(
        HOLD, id="b" * 32, since=NOW + timedelta(minutes=1), phase=Phase.RELEASED, held=True
    )
    assert await store.read(lambda records: records.holds.ended(9)) == [released]
    await store.write(lambda records: records.holds.forget("b" * 32))
    await store.write(lambda records: records.holds.release(NOW + timedelta(minutes=3)))
    assert [hold.id[0] for hold in await store.read(lambda r: r.holds.ended(9))] == ["c"]
    assert not await store.write(lambda records: records.holds.conclude("c" * 32, Phase.KEPT))
    for elsewhere in (("v", "m"), ("w", "n")):
        await store.write(lambda records, where=elsewhere: records.holds.delete(*where))
    assert [hold.id[0] for hold in await store.read(lambda r: r.holds.ended(9))] == ["c"]
    await store.write(lambda records: records.holds.delete("w", "m"))
    ended = await store.read(lambda records: records.holds.ended(9))
    assert [(hold.id[0], hold.phase) for hold in ended] == [
        ("a", Phase.DELETED),
        ("c", Phase.RELEASED),
    ]
    assert [hold.id[0] for hold in await store.read(lambda r: r.holds.ended(1))] == ["a"]


async def test_holds_that_storage_may_not_have_come_first(store: SqlStore) -> None:
    """Kept or deleted, they are to be made there; a deleted one ends only then."""
    kept = replace(HOLD, phase=Phase.KEPT)
    await store.write(lambda records: records.holds.add(kept))
    assert await store.read(lambda records: records.holds.unheld(9)) == [kept]
    await store.write(lambda records: records.holds.delete("w", "m"))
    deleted = replace(kept, phase=Phase.DELETED)
    assert await store.read(lambda records: records.holds.unheld(9)) == [deleted]
    assert await store.read(lambda records: records.holds.ended(9)) == []
    await store.write(lambda records: records.holds.held(HOLD.id))
    assert await store.read(lambda records: records.holds.unheld(9)) == []
    assert await store.read(lambda r: r.holds.ended(9)) == [replace(deleted, held=True)]
