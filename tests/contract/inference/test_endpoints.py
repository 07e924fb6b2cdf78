"""The record of endpoints keeps the promises of its port on every database."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from lepton_inference.adapters.sql_endpoints import SqlEndpoints
from lepton_inference.endpoint import (
    Endpoint,
    EndpointExists,
    EndpointNotFound,
    ModelVersion,
    Shadow,
    State,
    Target,
)
from lepton_inference.ensemble import Ensemble, EnsembleStep
from lepton_inference.models import Base
from lepton_inference.settings import BatchingSettings, ModelSettings
from lepton_mesh.database import Database, differences

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def endpoints(database: Database) -> SqlEndpoints:
    return SqlEndpoints(database)


def endpoint(endpoint_id: str = "digits", workspace: str = "lab") -> Endpoint:
    """One in which no field has its default."""
    version = ModelVersion("models/m/versions/2", "artifacts/a", "5" * 64, ("cat", "dog"))
    return Endpoint(
        workspace=workspace,
        id=endpoint_id,
        targets=(Target("models/m@best", 3, version), Target("models/m/versions/2", 1, version)),
        shadow=Shadow("models/m@next", 12.5, 0.25, replace(version, sha256="6" * 64)),
        settings=ModelSettings(BatchingSettings(max_rows=7, max_delay_seconds=0.25, max_queue=9)),
        state=State.FAILED,
        creator="users/ada",
        created=NOW,
        updated=NOW,
        revision=4,
        generation=3,
        unloaded=True,
        failure_reason="MODEL_INVALID",
        failure_message="Größe: 数",
        execution_provider="CPUExecutionProvider",
        description="digits",
        labels={"team": "vision"},
    )


async def test_what_is_added_is_read_back_as_it_was(endpoints: SqlEndpoints) -> None:
    """Every field, times to the microsecond."""
    await endpoints.add(endpoint())
    assert await endpoints.get("lab", "digits") == endpoint()
    assert await endpoints.all() == [endpoint()]


async def test_an_ensemble_is_read_back_as_it_was(endpoints: SqlEndpoints) -> None:
    """Steps in their order, and every name."""
    steps = (
        EnsembleStep("second", {"x": "middle"}, {"y": "größe"}, "3"),
        EnsembleStep("first", {"x": "image", "m": "mask"}, {"y": "middle"}),
    )
    added = replace(endpoint(), targets=(), ensemble=Ensemble(steps, ("größe",)))
    await endpoints.add(added)
    assert await endpoints.get("lab", "digits") == added


async def test_an_id_is_taken_once_in_a_workspace(endpoints: SqlEndpoints) -> None:
    await endpoints.add(endpoint())
    with pytest.raises(EndpointExists):
        await endpoints.add(replace(endpoint(), description="another"))
    await endpoints.add(endpoint(workspace="other"))
    assert await endpoints.get("lab", "digits") == endpoint()
    assert [one.workspace for one in await endpoints.all()] == ["lab", "other"]


async def test_pages_are_in_order_of_id_and_of_one_workspace(endpoints: SqlEndpoints) -> None:
    for name in ("c", "a", "b-2", "b"):
        await endpoints.add(endpoint(name))
    await endpoints.add(endpoint("a1", "other"))
    first = await endpoints.page("lab", "", 2)
    rest = await endpoints.page("lab", first[-1].id, 9)
    assert [one.id for one in (*first, *rest)] == ["a", "b", "b-2", "c"]


async def test_changes_at_once_are_all_kept(endpoints: SqlEndpoints) -> None:
    """Each sees what the one before it wrote."""
    await endpoints.add(endpoint())

    def change(current: Endpoint) -> Endpoint:
        return replace(current, revision=current.revision + 1)

    await asyncio.gather(*[endpoints.change("lab", "digits", change) for _ in range(8)])
    assert (await endpoints.get("lab", "digits")).revision == 12


async def test_a_change_that_raises_changes_nothing(endpoints: SqlEndpoints) -> None:
    await endpoints.add(endpoint())

    def refuse(current: Endpoint) -> Endpoint:
        raise EndpointExists("no")

    with pytest.raises(EndpointExists):
        await endpoints.change("lab", "digits", refuse)
    assert await endpoints.get("lab", "digits") == endpoint()


async def test_what_is_not_there_is_not_found(endpoints: SqlEndpoints) -> None:
    """Read, changed or deleted, also by another workspace, and after it was deleted."""
    await endpoints.add(endpoint(workspace="other"))
    await endpoints.add(endpoint("gone"))
    await endpoints.delete("lab", "gone")
    for name in ("digits", "gone"):
        with pytest.raises(EndpointNotFound):
            await endpoints.get("lab", name)
        with pytest.raises(EndpointNotFound):
            await endpoints.change("lab", name, lambda current: current)
        with pytest.raises(EndpointNotFound):
            await endpoints.delete("lab", name)


def test_the_revisions_build_what_the_models_say(database: Database) -> None:
    assert differences(database.engine, Base.metadata) == []
