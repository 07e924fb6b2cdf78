"""A gateway with services behind it: one for all tests that only ask, one for each other."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.integration.gateway.world import World, eventually


@pytest.fixture
async def bare_world(tmp_path: Path) -> AsyncIterator[World]:
    """Nothing started yet."""
    world = World(tmp_path)
    yield world
    await world.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """A gateway with auth, storage, training and inference behind it; registry has no instance."""
    world = World(tmp_path_factory.mktemp("gateway"))
    await world.serve("auth", "auth-1")
    await world.serve("storage", "storage-1")
    await world.serve("training", "training-1")
    await world.serve("inference", "inference-1", "oip")
    await world.start_gateway()
    await eventually(world, "/readyz", 200)
    yield world
    await world.close()
