"""Instances on one database serve the same endpoints, whichever of them was asked."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from lepton_inference.adapters import onnx_runtime
from lepton_inference.adapters.model_cache import ModelCache
from lepton_inference.adapters.sql_endpoints import SqlEndpoints
from lepton_inference.changes import Changes
from lepton_inference.deployer import Deployer
from lepton_inference.endpoint import Endpoint, ModelVersion, State, Wanted
from lepton_inference.endpoints import EndpointManager
from lepton_inference.serving import Served, Serving
from lepton_mesh.database import Database
from tests.inference_models import linear

CONTENT = {f"models/m/versions/{number}": linear(float(number)) for number in (1, 2)}
BROKEN = "models/m/versions/3"


class Registry:
    async def resolve(self, name: str) -> ModelVersion:
        content = CONTENT.get(name, b"not a model")
        return ModelVersion(name, f"artifacts/{name}", hashlib.sha256(content).hexdigest())


class Artifacts:
    async def read(self, workspace: str, artifact: str) -> AsyncIterator[bytes]:
        yield CONTENT.get(artifact.removeprefix("artifacts/"), b"not a model")


class Instance:
    """What one process has: the same database, and everything else of its own."""

    def __init__(self, root: Path, name: str) -> None:
        database = Database.open(f"sqlite:///{root / 'shared.db'}", "lepton_inference.migrations")
        self.close_database = database.close
        self.endpoints = SqlEndpoints(database)
        self.serving = Serving()
        changes = Changes()
        self.deployer = Deployer(
            endpoints=self.endpoints,
            artifacts=Artifacts(),
            cache=ModelCache(root / name),
            serving=self.serving,
            load=onnx_runtime.load,
            platform=onnx_runtime.PLATFORM,
            changes=changes,
            follow_seconds=0.02,
        )
        self.manager = EndpointManager(self.endpoints, Registry(), self.deployer, changes)

    async def create(self, version: str) -> Endpoint:
        wanted = Wanted(targets=((version, 1),))
        return await self.manager.create(
            workspace="lab", endpoint_id="digits", creator="users/ada", wanted=wanted
        )

    async def update(self, field: str, wanted: Wanted) -> Endpoint:
        return await self.manager.update("lab", "digits", etag="", wanted=wanted, fields=(field,))

    async def target(self, version: str) -> Endpoint:
        return await self.update("targets", Wanted(targets=((version, 1),)))

    def served(self) -> Served | None:
        return self.serving.workspace("lab").endpoints.get("digits")

    def unloaded(self) -> bool:
        """Whether it is served as one that is unloaded."""
        served = self.served()
        return served is not None and served.unloaded

    def version(self) -> str:
        """The version that answers here; "" for none."""
        served = self.served()
        return served.models[0].source.version if served and served.models else ""


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        # Nobody tells when another instance has followed, which is what is tested.
        while not holds():
            await asyncio.sleep(0.01)


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[tuple[Instance, Instance]]:
    async with AsyncExitStack() as stack:
        made = []
        for name in ("first", "second"):
            instance = await asyncio.to_thread(Instance, tmp_path, name)
            stack.callback(instance.close_database)
            await instance.deployer.start()
            stack.push_async_callback(instance.deployer.close)
            made.append(instance)
        yield made[0], made[1]


async def test_both_serve_what_either_was_told(two: tuple[Instance, Instance]) -> None:
    """Created by the first, changed by the second, deleted and created anew by the first."""
    first, second = two
    await first.create("models/m/versions/1")
    await until(lambda: first.version() == second.version() == "1")
    await second.target("models/m/versions/2")
    await until(lambda: first.version() == second.version() == "2")
    await first.manager.delete("lab", "digits")
    await first.create("models/m/versions/1")
    await until(lambda: first.version() == second.version() == "1")
    await second.manager.delete("lab", "digits")
    await until(lambda: first.served() is None and second.served() is None)


async def test_a_change_of_words_loads_nothing(two: tuple[Instance, Instance]) -> None:
    """The models go on as they are where only the description changed."""
    first, second = two
    await first.create("models/m/versions/1")
    await until(lambda: first.version() == second.version() == "1")
    served = second.served()
    await first.update("description", Wanted(description="as of today"))
    await second.deployer.reconcile()
    assert second.served() is served


async def test_a_failure_is_on_record_and_takes_nothing_down(
    two: tuple[Instance, Instance],
) -> None:
    """What cannot be loaded leaves the version before it answering in both."""
    first, second = two
    await first.create("models/m/versions/1")
    await until(lambda: first.version() == second.version() == "1")
    await first.target(BROKEN)
    async with asyncio.timeout(20):
        stop = asyncio.Event()
        async for endpoint in first.manager.watch("lab", "digits", stop):
            if endpoint.state is State.FAILED:
                break
    await second.deployer.reconcile()
    assert endpoint.failure_reason == "MODEL_INVALID"
    assert first.version() == second.version() == "1"


async def test_both_unload_and_load_what_either_was_told(two: tuple[Instance, Instance]) -> None:
    """The record says which endpoints are unloaded; each instance gives their memory back."""
    first, second = two
    await first.create("models/m/versions/1")
    await until(lambda: first.version() == second.version() == "1")
    await first.update("unloaded", Wanted(unloaded=True))
    await until(lambda: first.version() == second.version() == "")
    served = second.served()
    assert served is not None
    assert served.reason == "unloaded"
    assert (await second.endpoints.get("lab", "digits")).state is State.UNLOADED
    await second.update("unloaded", Wanted(unloaded=False))
    await until(lambda: first.version() == second.version() == "1")


async def test_what_is_unloaded_stays_so_after_a_restart(tmp_path: Path) -> None:
    """A start serves it without models, and never says DEPLOYING of it."""
    for start in range(2):
        instance = await asyncio.to_thread(Instance, tmp_path, "one")
        states: list[State] = []
        record = instance.endpoints.change

        async def watched(
            *arguments: Any, record: Any = record, states: list[State] = states
        ) -> Endpoint:
            changed: Endpoint = await record(*arguments)
            states.append(changed.state)
            return changed

        instance.endpoints.change = watched
        await instance.deployer.start()
        if start == 0:
            await instance.create("models/m/versions/1")
            await instance.update("unloaded", Wanted(unloaded=True))
        await until(instance.unloaded)
        if start == 1:
            assert set(states) <= {State.UNLOADED}
        await instance.deployer.close()
        instance.close_database()
