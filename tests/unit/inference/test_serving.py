"""Which version a request goes to."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.placement import Placement
from lepton_inference.serving import EndpointFailed, Served, ServingState
from lepton_inference.settings import BatchingSettings, ModelSettings
from lepton_inference.signature import InferenceRequest, InputTensor
from lepton_mesh.interceptors.status import public_message
from tests.unit.inference.test_asgi import HeldSession


def served(*weights: int) -> Served:
    models = [
        LoadedModel(
            ModelSource("m", str(number), "test", f"d{number}"), HeldSession(), ModelSettings()
        )
        for number in range(len(weights))
    ]
    return Served("m", ServingState.READY, models=models, weights=list(weights))


async def test_a_key_goes_to_one_version_and_keys_follow_the_weights() -> None:
    """Four in five keys go to the version of weight four, each of them always."""
    split = served(4, 1)
    keys = [f"user-{number}" for number in range(2000)]
    chosen = [split.pick(routing_key=key).source.version for key in keys]
    assert chosen == [split.pick(routing_key=key).source.version for key in keys]
    assert 1500 < Counter(chosen)["0"] < 1700


async def test_a_key_moves_only_to_what_grew() -> None:
    """More weight for one version takes keys from the others and moves none between them."""
    before, after = served(1, 1, 1), served(1, 1, 2)
    for number in range(500):
        was = before.pick(routing_key=str(number)).source.version
        now = after.pick(routing_key=str(number)).source.version
        assert now in (was, "2")


async def test_a_version_that_is_named_counts_before_the_key() -> None:
    """Whoever asks for a version gets it."""
    split = served(1, 1)
    assert {split.pick("1", str(number)).source.version for number in range(20)} == {"1"}


async def batches_of_five(placement: Placement, batching: BatchingSettings) -> list[int]:
    """The batches that five requests of one row, sent at once, are run in."""
    session = HeldSession()
    session.placement = placement
    session.go_on.set()
    model = LoadedModel(
        ModelSource("m", "1", "test", ""), session, ModelSettings(batching=batching)
    )
    request = InferenceRequest("m", "", [InputTensor("x", "FP32", (1, 2), bytes(8))])
    await asyncio.gather(*(model.infer(request) for _ in range(5)))
    await model.close()
    return session.rows


async def test_a_batch_has_no_more_rows_than_are_enough() -> None:
    """Unless the endpoint names sizes of its own, or nothing was measured."""
    measured = Placement("CPUExecutionProvider", threads=1, inline_rows=8, enough_rows=2)
    unknown = Placement("CPUExecutionProvider", threads=1, inline_rows=8)
    assert await batches_of_five(measured, BatchingSettings()) == [2, 2, 1]
    assert await batches_of_five(measured, BatchingSettings(preferred_rows=(5,))) == [5]
    assert await batches_of_five(unknown, BatchingSettings()) == [5]


def test_a_long_failure_leaves_room_for_the_remedy() -> None:
    """What callers see of a message is cut at its end."""
    reason = "a tensor that nobody knows " * 40
    failed = Served("m" * 63, ServingState.UNAVAILABLE, reason=reason, failure="MODEL_INVALID")
    with pytest.raises(EndpointFailed) as caught:
        failed.pick()
    told = public_message(caught.value)
    assert f"`lepton endpoint load {'m' * 63}`" in told
    assert "MODEL_INVALID: a tensor" in told
