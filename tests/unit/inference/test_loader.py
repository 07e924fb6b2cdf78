"""Models on their way from the registry into memory, and what of them stays on disk."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lepton_inference.adapters.model_cache import ModelCache
from lepton_inference.endpoint import Endpoint, ModelVersion, State, Target
from lepton_inference.interruption import Interruption
from lepton_inference.load_slots import LoadSlots
from lepton_inference.loader import ModelLoader
from lepton_inference.model import LoadedModel, Session
from lepton_inference.model_errors import ModelDoesNotFit
from lepton_inference.serving import Served, ServingState
from lepton_inference.settings import ModelSettings
from tests.managed_inference import Models
from tests.unit.inference.test_asgi import HeldSession

CONTENT = {"m/1": b"one", "m/2": b"two", "m/3": b"three"}


class ClosableSession(HeldSession):
    """Says when it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


def version(number: int) -> ModelVersion:
    digest = hashlib.sha256(CONTENT[f"m/{number}"]).hexdigest()
    return ModelVersion(f"models/m/versions/{number}", f"m/{number}", digest)


def wants(number: int, *, workspace: str = "w") -> Endpoint:
    target = Target(version(number).name, 1, version(number))
    now = datetime.now(UTC)
    return Endpoint(
        workspace,
        "e",
        (target,),
        ModelSettings(),
        State.DEPLOYING,
        "somebody",
        created=now,
        updated=now,
    )


def on_disk(folder: Path) -> set[str]:
    return {path.parent.name for path in folder.glob("*/model.onnx")}


def listed(*endpoints: Endpoint) -> Callable[[], Awaitable[Iterable[Endpoint]]]:
    async def found() -> Iterable[Endpoint]:
        return endpoints

    return found


def digests(numbers: Iterable[int]) -> set[str]:
    return {version(number).sha256 for number in numbers}


class Loads:
    """Loads that go on until they are let go or interrupted; counts them by workspace."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.sessions: list[ClosableSession] = []
        self.interrupted = 0
        self.names: list[str] = []
        """Whose models were loaded."""

    def load(
        self, path: Path, settings: ModelSettings, unwanted: Interruption, name: str
    ) -> Session:
        self.names.append(name)
        self.begun.release()
        self.go_on.wait(10)
        self.sessions.append(ClosableSession())
        return self.sessions[-1]

    def endable(
        self, path: Path, settings: ModelSettings, unwanted: Interruption, name: str
    ) -> Session:
        over = threading.Event()
        with unwanted.during(over.set):
            self.begun.release()
            assert over.wait(10), "nobody ended it"
        self.interrupted += 1
        raise ModelDoesNotFit("ended")


async def test_a_load_that_nobody_waits_for_is_let_go(tmp_path: Path) -> None:
    """It counts as a load until its thread is done, and what it made is closed."""
    loads = Loads()
    loader = ModelLoader(Models(CONTENT), ModelCache(tmp_path), loads.load, "test")
    for number in (1, 2, 3):
        endpoint = wants(number, workspace=f"w{number}")
        task = asyncio.create_task(loader.load(endpoint, version(number)))
        await asyncio.to_thread(loads.begun.acquire)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert loader._slots.free == 0
    loads.go_on.set()
    model = await loader.load(wants(3), version(3))
    async with asyncio.timeout(10):
        while len(loads.sessions) < 4:  # the others are about to be done as well
            await asyncio.sleep(0.001)
    unwanted = [session for session in loads.sessions if session is not model.session]
    assert len(unwanted) == 3
    assert loads.names == ["w1/e", "w2/e", "w3/e", "w/e"]
    for session in unwanted:
        assert await asyncio.to_thread(session.closed.wait, 10)
    await model.close()


async def test_a_trial_that_nobody_waits_for_is_ended(tmp_path: Path) -> None:
    """So that others are loaded at once; meanwhile it is told what is done."""
    loads = Loads()
    loader = ModelLoader(Models(CONTENT), ModelCache(tmp_path), loads.endable, "test")
    for number in (1, 2, 3):
        task = asyncio.create_task(loader.load(wants(number), version(number)))
        await asyncio.to_thread(loads.begun.acquire)
        assert f"trying {version(number).name}:" in loader.activity(wants(number))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert loader.activity(wants(number)) == ""
    async with asyncio.timeout(5):
        while loads.interrupted < 3:
            await asyncio.sleep(0.001)


async def test_models_that_do_not_end_are_in_the_way_of_their_own_workspace(
    tmp_path: Path,
) -> None:
    """Others have their models loaded meanwhile; nothing is remembered of who has."""
    hanging, quick = Loads(), Loads()
    quick.go_on.set()

    def load(path: Path, settings: ModelSettings, unwanted: Interruption, name: str) -> Session:
        loads = quick if path.parent.name == version(3).sha256 else hanging
        return loads.load(path, settings, unwanted, name)

    loader = ModelLoader(Models(CONTENT), ModelCache(tmp_path), load, "test")
    stuck = [
        asyncio.create_task(loader.load(wants(1 + each % 2), version(1 + each % 2)))
        for each in range(6)
    ]
    for _ in range(2):
        await asyncio.to_thread(hanging.begun.acquire)
    async with asyncio.timeout(5):
        model = await loader.load(wants(3, workspace="other"), version(3))
    assert not hanging.begun.acquire(blocking=False)
    await model.close()
    hanging.go_on.set()
    for model in await asyncio.gather(*stuck):
        await model.close()
    assert loader._slots.free == 3
    assert not loader._slots._loads


async def test_a_workspace_has_two_loads_only_while_no_other_waits() -> None:
    """Whoever has none goes before who has one; who gives up waiting is in nobody's way."""
    slots = LoadSlots(3, 2)
    order: list[str] = []

    async def take(workspace: str) -> None:
        await slots.take(workspace)
        order.append(workspace)

    async with asyncio.timeout(5):
        await asyncio.gather(*(take(workspace) for workspace in ("ada", "eve", "bob")))
        names = ("ada", "ada", "dan", "kim", "eve")
        waiting = [asyncio.create_task(take(workspace)) for workspace in names]
        await asyncio.sleep(0)
        waiting[2].cancel()
        slots.give("eve")
        await waiting[3]
        slots.give("bob")
        await waiting[4]
        assert order == ["ada", "eve", "bob", "kim", "eve"]
        slots.give("kim")
        await waiting[0]
        slots.give("eve")
        await asyncio.sleep(0)
        assert not waiting[1].done()  # a third of one workspace
        assert slots.free == 1
        slots.give("ada")
        await waiting[1]


async def test_a_load_cancelled_as_its_turn_comes_gives_it_back() -> None:
    slots = LoadSlots(1, 1)
    await slots.take("ada")
    waiting = asyncio.create_task(slots.take("eve"))
    await asyncio.sleep(0)
    slots.give("ada")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert slots.free == 1


async def test_what_answers_stays_on_disk(tmp_path: Path) -> None:
    """Also where something else is wanted by now, which may never come to be served."""
    cache = ModelCache(tmp_path)
    session = ClosableSession()
    loader = ModelLoader(Models(CONTENT), cache, lambda *_: session, "test")
    served = Served("e", ServingState.READY, models=[await loader.load(wants(1), version(1))])
    for number in (2, 3):
        await cache.get(
            version(number).sha256, f"m/{number}", Models(CONTENT).read("w", f"m/{number}")
        )
    await loader.forget_unused(listed(wants(2)), lambda: [served])
    assert on_disk(tmp_path) == digests((1, 2))
    (model,) = served.models
    assert isinstance(model, LoadedModel)
    await model.close()
    await loader.forget_unused(listed(wants(2)), list)
    assert on_disk(tmp_path) == digests((2,))
    assert not cache._locks


async def test_what_is_asked_for_while_others_are_removed_stays(tmp_path: Path) -> None:
    """Whoever looks for what is wanted does not see an endpoint that is made meanwhile."""
    cache = ModelCache(tmp_path)

    async def get(number: int) -> Path:
        content = Models(CONTENT).read("w", f"m/{number}")
        return await cache.get(version(number).sha256, f"m/{number}", content)

    async def wanted() -> set[str]:
        await get(2)  # there already
        await get(3)  # fetched anew
        return set()

    await get(1)
    await get(2)
    await cache.keep(wanted)
    assert on_disk(tmp_path) == digests((2, 3))
    assert not cache._locks
