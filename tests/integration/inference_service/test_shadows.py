"""Shadows of endpoints that are really deployed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from lepton_inference.endpoint import State, Wanted, WantedShadow
from lepton_inference.settings import EndpointInvalid
from tests.inference_models import linear, two_by_two
from tests.integration.inference_service import test_shared_record as shared
from tests.integration.inference_service.test_ensembles import score
from tests.integration.inference_service.test_shared_record import Instance, until

MODELS = {
    "models/m/versions/1": linear(1.0),
    "models/m/versions/2": linear(2.0),
    "models/m/versions/3": two_by_two(),
}


@pytest.fixture
async def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Instance]:
    for name, content in MODELS.items():
        monkeypatch.setitem(shared.CONTENT, name, content)
    async with AsyncExitStack() as stack:
        made = await asyncio.to_thread(Instance, tmp_path, "first")
        stack.callback(made.close_database)
        await made.deployer.start()
        stack.push_async_callback(made.deployer.close)
        yield made


def wanted(shadow: str) -> Wanted:
    return Wanted(targets=(("models/m/versions/1", 1),), shadow=WantedShadow(shadow, 100.0, 0.001))


async def test_a_shadow_is_loaded_compared_swapped_and_taken_away(instance: Instance) -> None:
    """The endpoint's targets answer throughout, by the very model that they had."""
    manager = instance.manager
    first = wanted("models/m/versions/2")
    await manager.create(
        workspace="lab", endpoint_id="digits", creator="users/ada", wanted=first, wait=True
    )
    served = instance.served()
    assert served is not None
    live = served.models[0]
    assert await score(instance, "digits") == 4.0
    endpoint = await manager.get("lab", "digits")
    assert endpoint.shadow is not None
    assert endpoint.shadow.version.name == "models/m/versions/2"

    def compared() -> int:
        found = manager.comparison(endpoint)
        return 0 if found is None else found.compared

    await until(lambda: compared() == 1)
    found = manager.comparison(endpoint)
    assert found is not None
    assert (found.agreed, found.outputs["scores"].max_abs_difference) == (0, 4.0)
    assert (found.outputs["scores"].rows, found.outputs["scores"].same_argmax) == (1, 1)

    # One that takes something else is said to, and the targets go on.
    with pytest.raises(EndpointInvalid, match="the shadow takes a FP32"):
        await manager.update(
            "lab",
            "digits",
            etag="",
            wanted=wanted("models/m/versions/3"),
            fields=("shadow",),
            wait=True,
        )
    failed = await manager.get("lab", "digits")
    assert (failed.state, failed.failure_reason) == (State.FAILED, "ENDPOINT_INVALID")
    assert failed.failure_message.startswith("the shadow 'models/m/versions/3': ")
    assert await score(instance, "digits") == 4.0
    assert manager.comparison(failed) is None

    await manager.update("lab", "digits", etag="", wanted=first, fields=("shadow",), wait=True)
    assert await score(instance, "digits") == 4.0
    await until(lambda: compared() == 1)  # it begins anew
    await manager.update("lab", "digits", etag="", wanted=Wanted(), fields=("shadow",), wait=True)
    served = instance.served()
    assert served is not None
    assert served.models == served.loaded == [live]
    assert (await manager.get("lab", "digits")).shadow is None
    assert await score(instance, "digits") == 4.0


async def test_a_shadow_becomes_the_target(instance: Instance) -> None:
    """In one change, with another in its place; and what is loaded twice in between goes."""
    manager = instance.manager
    await manager.create(
        workspace="lab",
        endpoint_id="digits",
        creator="users/ada",
        wanted=wanted("models/m/versions/2"),
        wait=True,
    )
    turned = Wanted(
        targets=(("models/m/versions/2", 1),),
        shadow=WantedShadow("models/m/versions/1", 100.0, 0.001),
    )
    await manager.update(
        "lab", "digits", etag="", wanted=turned, fields=("targets", "shadow"), wait=True
    )
    assert await score(instance, "digits") == 8.0
    served = instance.served()
    assert served is not None
    assert [model.source.version for model in served.loaded] == ["2", "1"]
    with pytest.raises(EndpointInvalid, match="a target too"):
        await manager.update(
            "lab", "digits", etag="", wanted=wanted("models/m/versions/1"), fields=("targets",)
        )
