"""Loading and unloading, with the record, the deployer and ONNX Runtime, and no transport."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.adapters import onnx_runtime
from lepton_inference.endpoint import Endpoint, State, Wanted
from lepton_inference.open_inference import OpenInference
from lepton_inference.serving import Admitted
from lepton_inference.settings import Link, ModelSettings, SequenceSettings
from lepton_mesh.caller import Caller, Role, set_caller
from lepton_mesh.errors import LeptonError, Unavailable
from tests.inference_models import fibonacci, linear
from tests.managed_inference import ManagedInference, Models

ADA = Caller("user", "users/ada", "lab", Role.DEVELOPER)


class World:
    """One process, and Ada who asks it."""

    def __init__(self, managed: ManagedInference) -> None:
        self.managed = managed
        self.models = managed.models
        self.protocol = OpenInference(managed.serving, managed.repository)
        self.admitted = Admitted(ADA, managed.serving.workspace("lab"))

    async def ask(self, method: str, request: Any, seconds: float | None = None) -> bytes:
        return await self.protocol.call(method, self.admitted, request.SerializeToString(), seconds)

    async def load(self, name: str, **parameters: pb.ModelRepositoryParameter) -> None:
        await self.ask(
            "RepositoryModelLoad",
            pb.RepositoryModelLoadRequest(model_name=name, parameters=parameters),
        )

    async def unload(self, name: str) -> None:
        await self.ask("RepositoryModelUnload", pb.RepositoryModelUnloadRequest(model_name=name))

    async def create(self, name: str, target: str, **fields: Any) -> Endpoint:
        # As the servicer, whose interceptor has said who calls.
        async def create() -> Endpoint:
            set_caller(ADA)
            return await self.managed.manager.create(
                workspace="lab",
                endpoint_id=name,
                creator="users/ada",
                wanted=Wanted(targets=((target, 1),), **fields),
                wait=True,
            )

        return await asyncio.create_task(create())

    async def index(self, **fields: Any) -> dict[str, tuple[str, str, str]]:
        answer = await self.ask("RepositoryIndex", pb.RepositoryIndexRequest(**fields))
        models = pb.RepositoryIndexResponse.FromString(answer).models
        return {one.name: (one.version, one.state, one.reason) for one in models}

    def version(self, name: str) -> str:
        return self.admitted.workspace.find(name).pick().source.version


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    models = Models(
        {
            "digits/1": linear(1.0),
            "digits/2": linear(2.0),
            "fibonacci/1": fibonacci(),
            "text/1": b"no model",
        }
    )
    managed = await asyncio.to_thread(
        ManagedInference,
        models,
        tmp_path / "inference.db",
        tmp_path / "cache",
        # These are known: none is tried in a process of its own.
        load=lambda path, settings, *_: onnx_runtime.examine(path, settings),
    )
    yield World(managed)
    await managed.close()


async def test_unloading_keeps_the_endpoint_and_frees_its_model(world: World) -> None:
    """Requests are told so; loading serves it again; both may be said twice."""
    await world.create("digits", "models/digits/versions/1")
    (model,) = world.admitted.workspace.find("digits").models
    for _ in range(2):
        await world.unload("digits")
        with pytest.raises(LeptonError) as caught:
            world.version("digits")
        assert (caught.value.reason, caught.value.wire.grpc_name) == (
            "ENDPOINT_UNLOADED",
            "UNAVAILABLE",
        )
        assert (await world.index())["digits"] == ("", "UNAVAILABLE", "unloaded")
    endpoint = await world.managed.manager.get("lab", "digits")
    assert (endpoint.state, endpoint.unloaded) == (State.UNLOADED, True)
    with pytest.raises(RuntimeError, match="closed"):
        model.session.run({})
    for _ in range(2):
        await world.load("digits")
        assert world.version("digits") == "1"
        assert (await world.index())["digits"] == ("1", "READY", "")
    endpoint = await world.managed.manager.get("lab", "digits")
    assert (endpoint.state, endpoint.unloaded) == (State.READY, False)


async def test_sequences_end_with_the_model_that_is_unloaded(world: World) -> None:
    """What they keep is memory that is to be given back; the next request is told so."""
    settings = ModelSettings(sequences=SequenceSettings(states=(Link("after", "before"),)))
    await world.create("counter", "models/fibonacci/versions/1", settings=settings)
    served = world.admitted.workspace.find("counter")

    async def step(start: bool) -> None:
        message = pb.ModelInferRequest(
            model_name="counter",
            inputs=[
                pb.ModelInferRequest.InferInputTensor(name="x", datatype="INT64", shape=[1, 1])
            ],
            raw_input_contents=[(1).to_bytes(8, "little")],
            parameters={
                "sequence_id": pb.InferParameter(int64_param=7),
                "sequence_start": pb.InferParameter(bool_param=start),
            },
        )
        await world.protocol.infer(world.admitted, message.SerializeToString())

    await step(start=True)
    await step(start=False)
    (model,) = served.models
    assert model.sequences is not None
    assert model.sequences.live
    await world.unload("counter")
    with pytest.raises(LeptonError) as caught:
        await step(start=False)
    assert caught.value.reason == "ENDPOINT_UNLOADED"
    assert world.admitted.workspace.find("counter").draining == []


async def test_loading_resolves_aliases_anew_for_the_caller(world: World) -> None:
    """Whether it was unloaded or not; the registry is asked as the one who asks."""
    world.models.aliases["digits/best"] = "1"
    await world.create("d", "models/digits/aliases/best")
    world.models.aliases["digits/best"] = "2"
    world.models.askers.clear()
    await world.load("d")
    assert world.version("d") == "2"
    assert world.models.askers == ["users/ada"]
    await world.unload("d")
    world.models.aliases["digits/best"] = "1"
    await world.load("d")
    assert world.version("d") == "1"


async def test_what_still_serves_is_kept_where_nothing_changed(world: World) -> None:
    """Loading what is loaded replaces no model."""
    await world.create("digits", "models/digits/versions/1")
    before = world.admitted.workspace.find("digits").models
    await world.load("digits")
    assert world.admitted.workspace.find("digits").models == before


async def test_a_model_of_the_registry_gets_an_endpoint(world: World) -> None:
    """In its newest version, also when it is loaded again; the index has both kinds."""
    others = dict.fromkeys(("fibonacci", "text"), ("1", "UNAVAILABLE", "not loaded"))
    assert await world.index() == {"digits": ("2", "UNAVAILABLE", "not loaded"), **others}
    assert await world.index(ready=True) == {}
    await world.load("digits")
    assert await world.index() == {"digits": ("2", "READY", ""), **others}
    world.models.content["digits/3"] = linear(3.0)
    await world.load("digits")
    assert world.version("digits") == "3"


async def test_a_load_fails_with_its_failure(world: World) -> None:
    """Where the model is none, where nothing is called so, and where it is not a name."""
    for name, reason in (
        ("text", "MODEL_INVALID"),
        ("nobody", "ENDPOINT_NOT_FOUND"),
        ("No Name", "INVALID_ID"),
        ("", "INVALID_ID"),
    ):
        with pytest.raises(LeptonError) as caught:
            await world.load(name)
        assert caught.value.reason == reason, name
    with pytest.raises(LeptonError) as caught:
        await world.unload("nobody")
    assert caught.value.reason == "ENDPOINT_NOT_FOUND"


async def test_requests_to_what_could_not_be_loaded_are_told_why(world: World) -> None:
    """And what to do; to wait is of no use until something else is wanted."""
    with pytest.raises(LeptonError):
        await world.load("text")
    with pytest.raises(LeptonError, match="cannot load the model") as caught:
        world.version("text")
    error = caught.value
    assert (error.reason, error.wire.grpc_name) == ("ENDPOINT_FAILED", "FAILED_PRECONDITION")
    assert not error.wire.retryable
    assert error.metadata == {"endpoint": "text", "failure_reason": "MODEL_INVALID"}
    assert "lepton endpoint update text" in error.message

    read, go_on = world.models.read, asyncio.Event()

    async def held(workspace: str, artifact: str) -> AsyncIterator[bytes]:
        await go_on.wait()
        async for piece in read(workspace, artifact):
            yield piece

    world.models.read = held
    world.models.content["text/2"] = linear(1.0)
    loading = asyncio.create_task(world.load("text"))
    async with asyncio.timeout(10):
        # Nobody tells when loading begins.
        while world.admitted.workspace.find("text").failure:
            await asyncio.sleep(0.001)
    with pytest.raises(LeptonError) as caught:
        world.version("text")
    assert (caught.value.reason, caught.value.wire.retryable) == ("ENDPOINT_NOT_READY", True)
    go_on.set()
    await loading
    assert world.version("text") == "2"


async def test_requests_to_what_may_still_be_loaded_are_told_to_wait(world: World) -> None:
    """Where the failure passes by itself, so does theirs."""
    read = world.models.read

    async def away(workspace: str, artifact: str) -> AsyncIterator[bytes]:
        raise Unavailable("storage is starting")
        yield b""  # which makes it a generator

    world.models.read = away
    with pytest.raises(LeptonError):
        await world.load("digits")
    with pytest.raises(LeptonError, match="storage is starting") as caught:
        world.version("digits")
    assert (caught.value.reason, caught.value.wire.retryable) == ("ENDPOINT_NOT_READY", True)
    world.models.read = read
    await world.load("digits")
    assert world.version("digits") == "2"


async def test_a_config_is_set_and_stays(world: World) -> None:
    """Bounds are the endpoint's own; what is refused changes nothing."""
    await world.load("digits", config=pb.ModelRepositoryParameter(string_param="{}"))
    text = '{"max_batch_size": 8, "instance_group": [{"count": 2}]}'
    await world.load("digits", config=pb.ModelRepositoryParameter(string_param=text))
    await world.unload("digits")
    await world.load("digits")
    settings = (await world.managed.manager.get("lab", "digits")).settings
    assert (settings.batching.max_rows, settings.execution.instances) == (8, 2)
    assert world.admitted.workspace.find("digits").pick().max_rows == 8
    for text in ('{"max_batch_size": 100000}', '{"optimization": {"priority": 1}}'):
        with pytest.raises(LeptonError):
            await world.load("digits", config=pb.ModelRepositoryParameter(string_param=text))
    assert (await world.managed.manager.get("lab", "digits")).settings == settings


@pytest.mark.parametrize(
    ("name", "value", "reason", "says"),
    [
        ("file:1/model.onnx", {"bytes_param": b"x"}, "PARAMETER_UNSUPPORTED", "registry"),
        ("tuning", {"string_param": "x"}, "PARAMETER_UNSUPPORTED", "'tuning'"),
        ("config", {"int64_param": 1}, "PARAMETER_INVALID", "JSON as text"),
    ],
)
async def test_other_parameters_are_refused_by_name(
    world: World, name: str, value: dict[str, Any], reason: str, says: str
) -> None:
    """With the remedy."""
    with pytest.raises(LeptonError, match=says) as caught:
        await world.load("digits", **{name: pb.ModelRepositoryParameter(**value)})
    assert caught.value.reason == reason


async def test_kserves_dialect(world: World) -> None:
    """A lone field 1 is the model's name; answers have KServe's fields, unknown to Triton's."""
    kserve = b"\x0a\x06digits"
    for method, response in (
        ("RepositoryModelLoad", pb.RepositoryModelLoadResponse),
        ("RepositoryModelUnload", pb.RepositoryModelUnloadResponse),
    ):
        answer = await world.protocol.call(method, world.admitted, kserve)
        assert answer == b"\x0a\x06digits\x10\x01", method
        assert response.FromString(answer).ListFields() == []
    both = pb.RepositoryModelLoadRequest(repository_name="models", model_name="digits")
    with pytest.raises(LeptonError, match="repository_name"):
        await world.ask("RepositoryModelLoad", both)
    with pytest.raises(LeptonError, match="repository_name"):
        await world.index(repository_name="models")


async def test_several_may_load_the_same_at_a_time(world: World) -> None:
    """A model and an endpoint, each by clients who start together: all of them are served."""
    for _ in range(2):
        await asyncio.gather(*[world.load("digits") for _ in range(4)])
        assert world.version("digits") == "2"
    await world.unload("digits")
    await asyncio.gather(*[world.load("digits") for _ in range(4)])
    assert (await world.managed.manager.get("lab", "digits")).state is State.READY


async def test_a_load_is_bounded_by_the_callers_deadline(world: World) -> None:
    """The caller hears that it goes on, and it does."""
    go_on = asyncio.Event()
    read = world.models.read

    async def held(workspace: str, artifact: str) -> AsyncIterator[bytes]:
        await go_on.wait()
        async for piece in read(workspace, artifact):
            yield piece

    world.models.read = held
    with pytest.raises(LeptonError) as caught:
        await world.ask(
            "RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="digits"), 0.05
        )
    assert caught.value.reason == "CALL_EXPIRED"
    go_on.set()
    await world.load("digits")
    assert world.version("digits") == "2"


@pytest.mark.parametrize("what", ["unloaded", "deleted", "stopped"])
async def test_who_waits_hears_of_what_came_between(world: World, what: str) -> None:
    """An endpoint that goes while it is being loaded: the load says so."""
    go_on = asyncio.Event()

    async def held(workspace: str, artifact: str) -> AsyncIterator[bytes]:
        await go_on.wait()
        yield b""

    world.models.read = held
    loading = asyncio.create_task(world.load("digits"))
    async with asyncio.timeout(10):
        # Nobody tells when an endpoint is on record.
        while "digits" not in world.admitted.workspace.endpoints:
            await asyncio.sleep(0.001)
    if what == "unloaded":
        await world.unload("digits")
        assert (await world.index())["digits"] == ("", "UNAVAILABLE", "unloaded")
    elif what == "deleted":
        await world.managed.manager.delete("lab", "digits")
    else:
        await world.managed.deployer.close()
    with pytest.raises(LeptonError) as caught:
        await loading
    assert caught.value.reason == "ENDPOINT_CHANGED"
