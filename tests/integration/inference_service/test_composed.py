"""Splits, ensembles, caches, shadows and swaps under load, by Triton's clients over real Envoy."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from typing import Any

import pytest

from lepton.api.inference.v1 import inference_pb2 as api
from tests.inference_models import linear
from tests.integration.inference_service.world import World

pytestmark = pytest.mark.integration

CLIENT = Path(__file__).with_name("triton_client.py")
ONE, TWO = 4.0, 8.0
"""What the versions score an image of ones."""
SWAPS = 5


async def start_client(world: World, what: str, address: str) -> Process:
    directory = world.identity("gateway")
    door = {
        "address": address,
        "authority": str(directory / "ca.pem"),
        "certificate": str(directory / "cert.pem"),
        "key": str(directory / "key.pem"),
        "token": world.token(),
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, str(CLIENT), what, json.dumps(door), stdin=PIPE, stdout=PIPE, stderr=PIPE
    )


async def result_of(client: Process, line: bytes = b"") -> dict[str, Any]:
    out, err = await asyncio.wait_for(client.communicate(line), 60)
    assert client.returncode == 0, err.decode()
    found: dict[str, Any] = json.loads(out)
    return found


async def create(world: World, endpoint_id: str, endpoint: api.Endpoint) -> None:
    message = api.CreateEndpointRequest(endpoint_id=endpoint_id, endpoint=endpoint)
    await world.management().CreateEndpoint(message, metadata=world.bearer(), timeout=20)
    await world.endpoint_in_state(f"endpoints/{endpoint_id}", "READY")


async def test_hot_replacement_under_load_fails_no_request(world: World) -> None:
    """Five swaps while five threads ask without a pause: each is answered by one or the other."""
    names = [world.models.register(f"digits/versions/{n}", linear(float(n))) for n in (1, 2)]
    world.run_inference()
    record = await world.instance()
    await create(world, "digits", api.Endpoint(targets=[api.Target(model_version=names[0])]))
    client = await start_client(world, "load", record.ports["oip"])
    try:
        assert client.stdout is not None
        assert client.stderr is not None
        said = await asyncio.wait_for(client.stdout.readline(), 60)
        assert said == b"ready\n", (await client.stderr.read()).decode()
        for swap in range(SWAPS):
            update = api.UpdateEndpointRequest(
                endpoint=api.Endpoint(
                    name="endpoints/digits",
                    targets=[api.Target(model_version=names[(swap + 1) % 2])],
                )
            )
            update.update_mask.paths.append("targets")
            await world.management().UpdateEndpoint(update, metadata=world.bearer(), timeout=20)
            await world.endpoint_in_state("endpoints/digits", "READY")
        found = await result_of(client, b"\n")
    finally:
        if client.returncode is None:
            client.kill()
    assert found["failures"] == []
    assert found["answers"].keys() == {
        f"{kind} {score}" for kind in ("grpc", "http") for score in (ONE, TWO)
    }
    assert min(found["answers"].values()) > 10


async def test_what_endpoints_are_made_of_is_the_same_by_either_protocol(world: World) -> None:
    """And the same key has the same version whichever way it comes."""
    one = world.models.register("digits/versions/1", linear(1.0))
    two = world.models.register("digits/versions/2", linear(2.0))
    double = world.models.register("double/versions/1", linear(0.5, columns=4, classes=4))
    world.run_inference()
    record = await world.instance()
    target = api.Target
    await create(
        world,
        "split",
        api.Endpoint(targets=[target(model_version=one, weight=1), target(model_version=two)]),
    )
    await create(world, "double", api.Endpoint(targets=[target(model_version=double)]))
    await create(
        world,
        "cached",
        api.Endpoint(targets=[target(model_version=one)], response_cache_bytes=1 << 20),
    )
    await create(
        world,
        "shadowed",
        api.Endpoint(
            targets=[target(model_version=one)], shadow=api.Shadow(model_version=two, percent=100)
        ),
    )
    step = api.EnsembleStep
    await create(
        world,
        "reader",
        api.Endpoint(
            ensemble=api.Ensemble(
                steps=[
                    step(endpoint="double", inputs={"image": "image"}, outputs={"scores": "two"}),
                    step(endpoint="cached", inputs={"image": "two"}, outputs={"scores": "scores"}),
                ],
                outputs=["scores"],
            )
        ),
    )
    found = await result_of(await start_client(world, "composed", record.ports["oip"]))
    grpc, http = found["grpc"], found["http"]
    assert grpc["split"] == http["split"]
    assert found["streamed"] == 2 * ONE
    assert set(grpc["split"]) == {ONE, TWO}
    for seen in (grpc, http):
        assert seen["sticky"]
        assert seen["versions"] == [ONE, TWO]
        assert (seen["reader"], seen["reader_ready"]) == (2 * ONE, True)
        assert seen["reader_config"]["platform"] == "ensemble"
        steps = seen["reader_config"]["ensemble_scheduling"]["step"]
        assert [one["model_name"] for one in steps] == ["double", "cached"]
        assert steps[1]["input_map"] == {"image": "two"}
        assert seen["reader_metadata"]["inputs"][0]["name"] == "image"
        assert seen["cached"] == [ONE] * 3
        assert seen["shadowed"] == [ONE] * 3
        assert "does not serve version '2'" in seen["shadow_refused"]
        assert [one["version"] for one in seen["shadow_statistics"]] == ["1", "2"]
    # The ensemble's input to the cached step, and the one that both clients sent three times.
    (cached,) = http["cached_statistics"]
    hits, misses = (cached["inference_stats"][f"cache_{kind}"]["count"] for kind in ("hit", "miss"))
    assert (int(hits), int(misses)) == (7, 2)
    (reader,) = http["reader_statistics"]
    assert int(reader["inference_count"]) == 3
    await compared(world, 6)


async def compared(world: World, count: int) -> None:
    """Returns once the shadow's answers to so many requests were compared, as users see it."""
    name = api.GetEndpointRequest(name="endpoints/shadowed")
    async with asyncio.timeout(20):
        while True:
            endpoint = await world.management().GetEndpoint(
                name, metadata=world.bearer(), timeout=20
            )
            found = endpoint.shadow.comparison
            if found.compared == count:
                break
            # Comparisons end on a thread, and nobody is told.
            await asyncio.sleep(0.02)
    assert endpoint.shadow.resolved_version == "models/digits/versions/2"
    assert (found.agreed, found.failed, found.dropped) == (0, 0, 0)
    assert found.outputs["scores"].max_abs_difference == TWO - ONE
    assert found.outputs["scores"].same_argmax == found.outputs["scores"].rows == count
