"""When a server that starts anew says that it is ready."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.adapters import onnx_runtime
from lepton_inference.endpoint import Wanted
from lepton_inference.ensemble import Ensemble, EnsembleStep
from lepton_inference.first_loads import FIRST_LOAD_SECONDS
from lepton_inference.open_inference import OpenInference
from lepton_inference.rest import Rest
from lepton_inference.rest_generate import EventsAsked
from lepton_inference.serving import EndpointNotReady
from lepton_mesh.caller import Caller, Role, set_caller
from lepton_mesh.errors import LeptonError, Unavailable
from tests.inference_models import linear
from tests.managed_inference import ManagedInference, Models
from tests.unit.inference.test_asgi import OpenGate

ADA = Caller("user", "users/ada", "lab", Role.DEVELOPER)
GOOD, BAD = ("models/good/versions/1", 1), ("models/bad/versions/1", 1)
CHAIN = Ensemble((EnsembleStep("bad", {"image": "image"}, {"scores": "scores"}),), ("scores",))


class HeldModels(Models):
    """A storage that answers once it is told to, or is away."""

    def __init__(self) -> None:
        super().__init__({"good/1": linear(1.0), "bad/1": b"no model"})
        self.answers = asyncio.Event()
        self.away = False

    async def read(self, workspace: str, artifact: str) -> AsyncIterator[bytes]:
        if self.away:
            raise Unavailable("storage is starting")
        await self.answers.wait()
        async for piece in super().read(workspace, artifact):
            yield piece


class World:
    """A server that is started more than once, on one record."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._starts = 0
        self.models = HeldModels()

    async def open(self, seconds: float = FIRST_LOAD_SECONDS) -> ManagedInference:
        """A server that has no model on disk yet."""
        self._starts += 1
        return await asyncio.to_thread(
            ManagedInference,
            self.models,
            self._folder / "inference.db",
            self._folder / f"cache-{self._starts}",
            load=lambda path, settings, *_: onnx_runtime.examine(path, settings),
            first_load_seconds=seconds,
        )

    @contextlib.asynccontextmanager
    async def started(self, seconds: float = FIRST_LOAD_SECONDS) -> AsyncIterator[ManagedInference]:
        managed = await self.open(seconds)
        await managed.deployer.start()
        yield managed
        await managed.close()

    async def create(self, **wanted: Wanted) -> None:
        """Puts endpoints on record, and stops the server again."""
        self.models.answers.set()
        set_caller(ADA)
        async with self.started() as managed:
            for name, each in wanted.items():
                # What came of it is not the question: it is on record.
                with contextlib.suppress(LeptonError):
                    await managed.manager.create(
                        workspace="lab", endpoint_id=name, creator="users/ada", wanted=each
                    )
        self.models.answers.clear()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def until_ready(managed: ManagedInference) -> None:
    async with asyncio.timeout(20):
        # Nobody tells: who wants to know asks.
        while not managed.deployer.first_loads.over():
            await asyncio.sleep(0.005)


async def test_a_server_is_ready_once_what_is_on_record_is_loaded(world: World) -> None:
    """Or has failed for good; until then requests are told what to do."""
    await world.create(good=Wanted(targets=(GOOD,)), bad=Wanted(targets=(BAD,)))
    async with world.started() as managed:
        served = managed.serving.workspace("lab").endpoints
        while len(served) < 2:  # their tasks begin with the next turns of the loop
            assert not managed.deployer.first_loads.over()
            await asyncio.sleep(0)
        assert not managed.deployer.first_loads.over()
        with pytest.raises(
            EndpointNotReady, match=r"is loading; send .* `lepton endpoint get good"
        ):
            served["good"].pick()
        world.models.answers.set()
        await until_ready(managed)
        assert served["good"].pick().source.version == "1"
        assert served["bad"].failure == "MODEL_INVALID"


async def test_a_failure_that_passes_is_waited_for(world: World) -> None:
    """Such as a storage that starts later."""
    await world.create(good=Wanted(targets=(GOOD,)))
    world.models.away = True
    async with world.started() as managed:
        while not (served := managed.serving.workspace("lab").endpoints.get("good")):
            await asyncio.sleep(0)
        async with asyncio.timeout(20):
            while not served.reason:
                await asyncio.sleep(0.005)
                served = managed.serving.workspace("lab").endpoints["good"]
        assert not managed.deployer.first_loads.over()
        world.models.away = False
        world.models.answers.set()
        await until_ready(managed)
        assert managed.serving.workspace("lab").find("good").models


async def test_what_does_not_end_is_waited_for_no_longer_than_is_set(world: World) -> None:
    """The others are there to be asked."""
    await world.create(good=Wanted(targets=(GOOD,)))
    async with world.started(seconds=0.1) as managed:
        assert not managed.deployer.first_loads.over()
        await until_ready(managed)
        assert not managed.serving.workspace("lab").find("good").models


async def test_what_is_deleted_or_cannot_come_is_not_waited_for(world: World) -> None:
    """An ensemble does not come if a step of it has failed."""
    await world.create(
        good=Wanted(targets=(GOOD,)), bad=Wanted(targets=(BAD,)), chain=Wanted(ensemble=CHAIN)
    )
    async with world.started() as managed:
        assert not managed.deployer.first_loads.over()
        await managed.manager.delete("lab", "good")
        world.models.answers.set()
        await until_ready(managed)
        assert managed.serving.workspace("lab").find("bad").failure == "MODEL_INVALID"


async def test_every_door_says_whether_the_server_is_ready(world: World) -> None:
    """ServerReady, the health check, and REST; a server that has not read its record is not."""
    managed = await world.open()
    protocol = OpenInference(
        managed.serving, managed.repository, loaded=managed.deployer.first_loads.over
    )
    rest = Rest(protocol, OpenGate(managed.serving), 1024)

    async def told() -> tuple[bool, bytes, int]:
        request = pb.ServerReadyRequest().SerializeToString()
        admitted = await OpenGate(managed.serving).admit("ServerReady", {})
        ready = pb.ServerReadyResponse.FromString(
            await protocol.call("ServerReady", admitted, request, None)
        )
        answer = await rest.answer("GET", "/v2/health/ready", {}, b"")
        assert not isinstance(answer, EventsAsked)
        return ready.ready, protocol.check_health(b""), answer[0]

    assert await told() == (False, b"\x08\x02", 503)
    await managed.deployer.start()
    assert await told() == (True, b"\x08\x01", 200)
    await managed.close()
