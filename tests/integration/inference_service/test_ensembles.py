"""Ensembles of endpoints that are really deployed, on one instance and on two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest

from lepton_inference.composition import EndpointInUse
from lepton_inference.endpoint import State, Wanted
from lepton_inference.ensemble import Ensemble, EnsembleInvalid, EnsembleStep
from lepton_inference.ensemble_model import EnsembleNotReady
from lepton_inference.repository import Repository
from lepton_inference.serving import ServingState
from lepton_inference.signature import InferenceRequest, InputTensor
from lepton_mesh.caller import Caller, Role
from tests.inference_models import linear
from tests.integration.inference_service import test_shared_record as shared
from tests.integration.inference_service.test_shared_record import Instance, until

# Four columns of ones become so many columns, each of four times the factor.
MODELS = {
    "models/double/versions/1": linear(0.5, columns=4, classes=4),
    "models/double/versions/2": linear(1.0, columns=4, classes=4),
    "models/double/versions/3": linear(1.0, columns=4, classes=5),
    "models/score/versions/1": linear(1.0, columns=4, classes=3),
}
CALLER = Caller("user", "users/ada", "lab", Role.DEVELOPER)
CHAIN = Ensemble(
    (
        EnsembleStep("score", {"image": "doubled"}, {"scores": "scores"}),
        EnsembleStep("double", {"image": "image"}, {"scores": "doubled"}),
    ),
    ("scores",),
)


@pytest.fixture
async def instances(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Instance]]:
    for name, content in MODELS.items():
        monkeypatch.setitem(shared.CONTENT, name, content)
    async with AsyncExitStack() as stack:
        made = []
        for name in ("first", "second"):
            instance = await asyncio.to_thread(Instance, tmp_path, name)
            stack.callback(instance.close_database)
            await instance.deployer.start()
            stack.push_async_callback(instance.deployer.close)
            made.append(instance)
        yield made


async def create(instance: Instance, endpoint_id: str, wanted: Wanted, wait: bool = True) -> None:
    await instance.manager.create(
        workspace="lab", endpoint_id=endpoint_id, creator="users/ada", wanted=wanted, wait=wait
    )


def version(name: str) -> Wanted:
    return Wanted(targets=((f"models/{name}", 1),))


async def score(instance: Instance, name: str = "reader") -> float:
    """The first score of an image of ones."""
    served = instance.serving.workspace("lab").find(name)
    tensor = InputTensor("image", "FP32", (1, 4), np.ones((1, 4), np.float32).tobytes())
    _, (batch, first) = await served.pick().infer(InferenceRequest(name, "", [tensor]))
    return float(batch.arrays[0][first, 0])


async def test_an_ensemble_follows_its_steps_and_keeps_them(instances: list[Instance]) -> None:
    """Made, asked on both instances, swapped under it, protected, unloaded with it, loaded."""
    first, second = instances
    with pytest.raises(EnsembleInvalid, match="step 'score': there is no such endpoint"):
        await create(first, "reader", Wanted(ensemble=CHAIN))
    await create(first, "score", version("score/versions/1"))
    await create(first, "double", version("double/versions/3"))
    with pytest.raises(EnsembleInvalid, match=r"'doubled' has the shape \[-1, 5\]"):
        await create(first, "reader", Wanted(ensemble=CHAIN))
    update = first.manager.update
    await update(
        "lab",
        "double",
        etag="",
        wanted=version("double/versions/1"),
        fields=("targets",),
        wait=True,
    )
    await create(first, "reader", Wanted(ensemble=CHAIN))
    assert (await first.manager.get("lab", "reader")).state is State.READY
    assert await score(first) == 8.0
    endpoints = second.serving.workspace("lab").endpoints

    def followed() -> bool:
        return "reader" in endpoints and endpoints["reader"].standing()[0] is ServingState.READY

    await until(followed)
    assert await score(second) == 8.0

    await update(
        "lab",
        "double",
        etag="",
        wanted=version("double/versions/2"),
        fields=("targets",),
        wait=True,
    )
    assert await score(first) == 16.0
    with pytest.raises(EnsembleInvalid, match="the ensemble 'reader' asks this endpoint"):
        await update(
            "lab",
            "double",
            etag="",
            wanted=version("double/versions/3"),
            fields=("targets",),
            wait=True,
        )
    assert await score(first) == 16.0

    with pytest.raises(EndpointInUse, match="'endpoints/double' is a step of reader; delete"):
        await first.manager.delete("lab", "double")
    repository = Repository(first.manager, shared.Registry())
    with pytest.raises(EndpointInUse, match="unload it first"):
        await repository.unload(CALLER, "score")
    await repository.unload(CALLER, "score", dependents=True)
    states = [one.state for one in await first.manager.page("lab", "", 9)]
    assert states == [State.FAILED, State.UNLOADED, State.UNLOADED]
    with pytest.raises(EnsembleNotReady, match="step 'score'"):
        await repository.load(CALLER, "reader")
    # It waits for its step, and is there as soon as that is.
    await repository.load(CALLER, "score")
    await until(lambda: bool(first.serving.workspace("lab").find("reader").models))
    assert await score(first) == 16.0
    await first.manager.delete("lab", "reader")
    await first.manager.delete("lab", "double")


async def test_an_ensemble_is_not_made_to_ask_itself(instances: list[Instance]) -> None:
    """Nor does a change of what it is bring that about."""
    first, _ = instances
    await create(first, "double", version("double/versions/1"))
    inner = Ensemble((EnsembleStep("double", {"image": "a"}, {"scores": "b"}),), ("b",))
    outer = Ensemble((EnsembleStep("inner", {"a": "image"}, {"b": "c"}),), ("c",))
    await create(first, "inner", Wanted(ensemble=inner))
    await create(first, "outer", Wanted(ensemble=outer))
    assert await score(first, "outer") == 2.0
    ring = Ensemble((EnsembleStep("outer", {"image": "a"}, {"c": "b"}),), ("b",))
    with pytest.raises(EnsembleInvalid, match="would ask itself: inner > outer > inner"):
        await first.manager.update(
            "lab", "inner", etag="", wanted=Wanted(ensemble=ring), fields=("ensemble",)
        )
    # What it is made of may change; who asks it sees the new.
    twice = Ensemble(
        (
            EnsembleStep("double", {"image": "a"}, {"scores": "m"}),
            EnsembleStep("double", {"image": "m"}, {"scores": "b"}),
        ),
        ("b",),
    )
    await first.manager.update(
        "lab", "inner", etag="", wanted=Wanted(ensemble=twice), fields=("ensemble",), wait=True
    )
    assert await score(first, "outer") == 4.0
    # An ensemble may become a model of its own, and again an ensemble.
    for wanted, expected in ((version("double/versions/1"), 2.0), (Wanted(ensemble=outer), 4.0)):
        await first.manager.update(
            "lab", "outer", etag="", wanted=wanted, fields=("targets", "ensemble"), wait=True
        )
        assert await score(first, "outer") == expected
