"""Shadows: what they are given, how they are compared, and what live traffic notices: nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lepton_inference import shadow as shadow_module
from lepton_inference.asgi import Application
from lepton_inference.composition import check_served
from lepton_inference.endpoint import ModelVersion, Shadow, WantedShadow, check_shadow
from lepton_inference.metrics import ServingCollector
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.open_inference import OpenInference
from lepton_inference.serving import Served, Serving, ServingState, VersionNotServed
from lepton_inference.settings import (
    BatchingSettings,
    EndpointInvalid,
    ExecutionSettings,
    ModelSettings,
    SequenceSettings,
)
from lepton_inference.shadow import Mirror, compare, shadow_settings
from lepton_inference.signature import InferenceRequest, InputTensor
from tests.unit.inference.test_asgi import Exchange, OpenGate
from tests.unit.inference.test_ensemble import chain, endpoint
from tests.unit.inference.test_ensemble_model import Step, spec


def model(step: Step, version: str = "1", *, background: bool = False) -> LoadedModel:
    source = ModelSource("m", version, "test", f"d{version}")
    settings = ModelSettings()
    if background:
        settings = shadow_settings(settings)
    return LoadedModel(source, step, settings, background=background)


def shadowed(
    live: Step, other: Step, percent: float = 100, tolerance: float = 0.5
) -> tuple[LoadedModel, Mirror]:
    mirror = Mirror(model(other, "2", background=True), percent, tolerance)
    answering = model(live)
    answering.shadow = mirror.bond(answering.signature)
    return answering, mirror


def request(value: float = 1.0, rows: int = 1) -> InferenceRequest:
    raw = np.full((rows, 2), value, np.float32).tobytes()
    return InferenceRequest("m", "", [InputTensor("x", "FP32", (rows, 2), raw)])


async def answer(live: LoadedModel, value: float = 1.0, rows: int = 1) -> Any:
    checked, (batch, first) = await live.infer(request(value, rows))
    return batch.arrays[0][first : first + checked.rows].tolist()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        # Comparisons end on a thread, and nobody is told.
        while not holds():
            await asyncio.sleep(0.001)


def settled(mirror: Mirror) -> int:
    found = mirror.comparison
    return found.compared + found.failed + found.dropped


async def test_answers_are_compared_and_the_live_one_is_given() -> None:
    """In batches, each request with its own rows."""
    live, mirror = shadowed(Step(1), Step(1.25))
    answers = await asyncio.gather(*[answer(live, float(n), rows=n) for n in (1, 2, 3)])
    assert answers == [[[2, 2]], [[3, 3]] * 2, [[4, 4]] * 3]
    await until(lambda: settled(mirror) == 3)
    found = mirror.comparison
    assert (found.compared, found.agreed, found.failed, found.dropped) == (3, 3, 0, 0)
    output = found.outputs["y"]
    assert output.max_abs_difference == 0.25
    assert (output.rows, output.same_argmax, output.differing) == (6, 6, 0)


async def test_what_differs_is_counted() -> None:
    live, mirror = shadowed(Step(1), Step(2))
    await answer(live)
    await until(lambda: settled(mirror) == 1)
    assert (mirror.comparison.compared, mirror.comparison.agreed) == (1, 0)
    assert mirror.comparison.outputs["y"].differing == 1


async def test_a_share_of_the_requests_is_given() -> None:
    live, mirror = shadowed(Step(1), Step(1), percent=25)
    for _ in range(400):
        await answer(live)
    await until(lambda: settled(mirror) >= 60)
    assert sum(mirror.model.session.rows) < 150


async def test_a_shadow_that_hangs_or_fails_harms_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Live answers come at once; what finds no room is dropped; memory is bounded."""
    hung = Step(1)
    hung.go_on.clear()
    live, mirror = shadowed(Step(1), hung)
    many = shadow_module.MAX_WAITING + 30
    for _ in range(many):
        assert await answer(live) == [[2, 2]]
    await until(lambda: mirror.comparison.dropped >= 20)
    hung.go_on.set()
    await until(lambda: settled(mirror) == many)
    assert mirror._held_bytes == 0

    with monkeypatch.context() as bounded:
        bounded.setattr(shadow_module, "MAX_HELD_BYTES", 0)
        dropped = mirror.comparison.dropped
        await answer(live)
        await until(lambda: mirror.comparison.dropped == dropped + 1)

    live, mirror = shadowed(Step(0), Step(0))
    live.session.run = lambda feeds: [feeds["x"]]
    assert await answer(live, -1.0) == [[-1, -1]]  # on which the shadow raises
    await until(lambda: settled(mirror) == 1)
    assert mirror.comparison.failed == 1
    assert mirror._held_bytes == 0
    await mirror.model.close()
    assert await answer(live) == [[1, 1]]
    await until(lambda: settled(mirror) == 2)
    assert mirror.comparison.dropped == 1


async def test_the_short_way_gives_the_shadow_its_share_too() -> None:
    """Requests like one before, through the data plane; the shadow is never asked by name."""
    serving = Serving()
    live, mirror = shadowed(Step(1), Step(1))
    served = Served("m", ServingState.READY, models=[live], weights=[1], mirror=mirror)
    serving.put("w", served)
    application = Application(OpenInference(serving), OpenGate(serving), 1 << 20)
    for _ in range(3):
        exchange = Exchange()
        await application(exchange.scope(), exchange.receive, exchange.send)
        assert len(exchange.sent) == 3
    await until(lambda: settled(mirror) == 3)
    assert serving.workspace("w").plans.find(Exchange()._body) is not None
    with pytest.raises(VersionNotServed):
        served.pick("2")
    assert [each.source.version for each in served.counted("")] == ["1", "2"]
    assert served.counted("2") == [mirror.model]
    with pytest.raises(VersionNotServed):
        served.counted("3")
    metrics = {
        (sample.name.removeprefix("lepton_inference_shadow_"), *sample.labels.values()): (
            sample.value
        )
        for metric in ServingCollector(serving).collect()
        for sample in metric.samples
        if "shadow" in sample.name
    }
    assert metrics["requests_total", "w", "m", "2", "agreed"] == 3
    assert metrics["rows_total", "w", "m", "2", "y", "same"] == 3
    assert metrics["max_abs_difference", "w", "m", "2", "y"] == 0
    assert serving.remove("w", "m") == [live, mirror.model]


async def test_inputs_are_matched_by_name() -> None:
    """The shadow may have them in another order, and outputs that the live model has not."""
    live_inputs = [spec("a"), spec("b", (-1, 1))]
    live = model(Step(inputs=live_inputs))
    other = Step(inputs=live_inputs[::-1])
    mirror = Mirror(model(other, "2", background=True), 100, 0.0)
    live.shadow = mirror.bond(live.signature)
    tensors = [
        InputTensor("a", "FP32", (1, 2), np.array([1, 2], np.float32).tobytes()),
        InputTensor("b", "FP32", (1, 1), np.array([5], np.float32).tobytes()),
    ]
    await live.infer(InferenceRequest("m", "", tensors))
    await until(lambda: settled(mirror) == 1)
    assert mirror.comparison.agreed == 1


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (Step(inputs=[spec("z")]), r"the shadow takes z FP32 \[-1, 2\]; .* take: x FP32"),
        (Step(inputs=[spec("x"), spec("z")]), "the shadow takes x"),
        (Step(inputs=[spec("x", datatype="FP64")]), "the shadow takes x FP64"),
        (Step(inputs=[spec("x", (-1, 3))]), r"the shadow takes x FP32 \[-1, 3\]"),
        (Step(batched=False), r"\(without batches\)"),
        (Step(output=spec("z")), "the outputs z, and none of what .* compared with: y"),
    ],
)
async def test_what_cannot_be_compared_is_refused(other: Step, why: str) -> None:
    with pytest.raises(EndpointInvalid, match=why):
        shadowed(Step(), other)


async def test_a_shadow_runs_in_the_background() -> None:
    """Never on the event loop, one batch at a time, with a short queue and no cache."""
    step = Step()
    step.placement = replace(step.placement, inline_rows=64)
    mirror = Mirror(model(step, "2", background=True), 100, 0.0)
    assert mirror.model.inline_rows == 0
    settings = ModelSettings(
        BatchingSettings(max_queue=4096, priority_levels=3),
        ExecutionSettings(instances=4),
        response_cache_bytes=1 << 20,
    )
    quiet = shadow_settings(settings)
    assert quiet.batching.max_queue == shadow_module.MAX_WAITING
    assert (quiet.batching.priority_levels, quiet.execution.instances) == (1, 1)
    assert quiet.response_cache_bytes == 0


F32 = np.float32
BF16 = ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("live", "other", "agrees", "worst"),
    [
        (np.array([[1, 2]], F32), np.array([[1, 2.25]], F32), True, 0.25),
        (np.array([[1, 2]], F32), np.array([[1, 3]], F32), False, 1.0),
        (np.array([[1, np.nan]], F32), np.array([[1, np.nan]], F32), True, 0.0),
        (np.array([[1, np.nan]], F32), np.array([[1, 2]], F32), False, 0.0),
        (np.array([[np.inf, 1]], F32), np.array([[np.inf, 1]], F32), True, 0.0),
        (np.array([[np.inf, 1]], F32), np.array([[-np.inf, 1]], F32), False, 0.0),
        (np.array([[1, 2]], BF16), np.array([[1, 2.25]], BF16), True, 0.25),
        (np.array([2**62]), np.array([2**62 + 1]), False, 0.0),
        (np.array([3]), np.array([5]), False, 2.0),
        (np.array([True]), np.array([True]), True, 0.0),
        (np.array(["a"], object), np.array(["a"], object), True, 0.0),
        (np.array(["a"], object), np.array(["b"], object), False, 0.0),
        (np.zeros((1, 2), F32), np.zeros((1, 3), F32), False, 0.0),
        (np.zeros((1, 2), F32), np.zeros((1, 2), np.float64), False, 0.0),
        (np.zeros((0, 2), F32), np.zeros((0, 2), F32), True, 0.0),
    ],
)
def test_numbers_agree_within_the_tolerance_and_the_rest_when_equal(
    live: Any, other: Any, agrees: bool, worst: float
) -> None:
    found = compare(live, other, 0.5)
    assert (found.differing == 0) is agrees
    assert found.max_abs_difference == worst


def test_scores_are_ranked_row_by_row() -> None:
    one = np.array([[1, 2], [2, 1], [1, 2]], F32)
    found = compare(one, np.array([[1, 2], [1, 2], [0, 9]], F32), 0.5)
    assert (found.rows, found.same_argmax) == (3, 2)
    assert compare(np.zeros((2, 1), F32), np.zeros((2, 1), F32), 0.5).rows == 0


def test_a_shadow_without_sense_is_refused() -> None:
    for percent in (0.0, -1.0, 100.5, float("nan")):
        with pytest.raises(EndpointInvalid, match=r"shadow.percent"):
            check_shadow(WantedShadow("m/2", percent, 0.1))
    for tolerance in (-1.0, float("inf"), float("nan")):
        with pytest.raises(EndpointInvalid, match=r"shadow.tolerance"):
            check_shadow(WantedShadow("m/2", 5, tolerance))
    version = ModelVersion("models/m/versions/2", "artifacts/b", "6" * 64)
    cast = Shadow("models/m/versions/2", 5, 0.1, version)
    check_served(replace(endpoint("e"), shadow=cast))
    with pytest.raises(EndpointInvalid, match="a target too"):
        check_served(
            replace(endpoint("e"), shadow=replace(cast, version=endpoint("e").targets[0].version))
        )
    with pytest.raises(EndpointInvalid, match="an ensemble has no versions"):
        check_served(replace(endpoint("e", chain("a")), shadow=cast))
    remembering = ModelSettings(sequences=SequenceSettings(feed_back=()))
    with pytest.raises(EndpointInvalid):
        check_served(replace(endpoint("e"), shadow=cast, settings=remembering))
