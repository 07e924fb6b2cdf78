"""One world for each test, so that no test sees another's endpoints."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.inference_service.world import World


@pytest.fixture
async def bare_world(tmp_path: Path) -> AsyncIterator[World]:
    """Nothing started yet."""
    made = World(tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def world(bare_world: World) -> World:
    """With etcd and the small services; a test starts inference itself."""
    await bare_world.start()
    return bare_world
