"""Kept answers: who is answered from them, what makes room, and who waits for whom."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.batch_queue import RequestExpired
from lepton_inference.metrics import ServingCollector
from lepton_inference.model import CallerGone, LoadedModel, ModelSource
from lepton_inference.open_inference import OpenInference
from lepton_inference.reports import config, statistics
from lepton_inference.serving import Served, Serving, ServingState
from lepton_inference.settings import EndpointInvalid, ModelSettings, check_model_settings
from lepton_inference.signature import InferenceRequest, InputTensor, Signature
from lepton_inference.tensors import DATATYPES, TensorSpec
from tests.unit.inference.test_asgi import HeldSession, OpenGate, framed_request
from tests.unit.inference.test_ensemble_model import Step, spec

ENTRY = 1024 + 8  # an answer of one row


def request(value: float, rows: int = 1, **fields: Any) -> InferenceRequest:
    raw = np.full((rows, 2), value, np.float32).tobytes()
    return InferenceRequest("m", "", [InputTensor("x", "FP32", (rows, 2), raw)], **fields)


def model(session: HeldSession | None = None, cache_bytes: int = 1 << 20) -> LoadedModel:
    """One whose session, if none is given, answers at once."""
    if session is None:
        session = HeldSession()
        session.go_on.set()
    settings = ModelSettings(response_cache_bytes=cache_bytes)
    return LoadedModel(ModelSource("m", "1", "test", "d"), session, settings)


async def answer(cached: LoadedModel, value: float, rows: int = 1, **fields: Any) -> list[float]:
    checked, (batch, first) = await cached.infer(request(value, rows, **fields))
    return [float(v) for v in batch.arrays[0][first : first + checked.rows, 0]]


def ran(cached: LoadedModel) -> list[int]:
    session: Any = cached.session
    return list(session.rows)


async def test_an_equal_request_does_not_run_again() -> None:
    """Another value, or the same bytes in another shape, does."""
    cached = model()
    assert await answer(cached, 1.0) == await answer(cached, 1.0) == [2.0]
    assert await answer(cached, 1.0, rows=2) == [2.0, 2.0]
    assert await answer(cached, 3.0) == [6.0]
    assert ran(cached) == [1, 2, 1]
    told = statistics(cached).inference_stats
    assert (told.cache_hit.count, told.cache_miss.count) == (1, 3)
    assert told.cache_hit.ns > 0 and told.cache_miss.ns > 0
    assert told.success.count == 4
    assert statistics(cached).inference_count == 4  # rows that were computed
    assert config(cached).response_cache.enable
    assert not config(model(cache_bytes=0)).response_cache.enable


async def test_an_answer_is_kept_without_its_company() -> None:
    """Requests of one batch are kept apart, and each finds its own."""
    cached = model()
    values = [float(value) for value in range(4)]
    asked = await asyncio.gather(*[answer(cached, value) for value in values])
    again = await asyncio.gather(*[answer(cached, value) for value in values])
    assert asked == again == [[2 * value] for value in values]
    assert ran(cached) == [4]
    assert cached.cache is not None
    assert cached.cache.bytes == 4 * ENTRY


async def test_what_was_used_longest_ago_makes_room() -> None:
    """The bound holds in bytes, and what is larger than all of it is not kept."""
    cached = model(cache_bytes=4 * ENTRY)
    for value in (0.0, 1.0, 2.0, 3.0):
        await answer(cached, value)
    await answer(cached, 0.0)  # used again: 1.0 is the oldest now
    await answer(cached, 4.0)
    assert len(ran(cached)) == 5
    await answer(cached, 0.0)
    assert len(ran(cached)) == 5
    await answer(cached, 1.0)
    assert len(ran(cached)) == 6
    assert cached.cache is not None
    assert cached.cache.bytes == 4 * ENTRY
    await answer(cached, 1.0, rows=64)
    roomy, narrow = model(), model(cache_bytes=ENTRY + 100)
    for one, runs in ((roomy, 1), (narrow, 2)):
        await answer(one, 1.0, rows=60)
        await answer(one, 1.0, rows=60)
        assert len(ran(one)) == runs


async def test_equal_requests_at_a_time_run_once() -> None:
    """Who comes second waits for the first; who cannot wait so long is told, and harms nobody."""
    session = HeldSession()
    cached = model(session)
    first = asyncio.create_task(answer(cached, 1.0))
    await asyncio.to_thread(session.begun.wait, 10)
    second = asyncio.create_task(answer(cached, 1.0))
    with pytest.raises(RequestExpired):
        await answer(cached, 1.0, timeout=0.001)

    async def gone() -> bool:
        return True

    with pytest.raises(CallerGone):
        await cached.infer(request(1.0), gone)
    session.go_on.set()
    assert await first == await second == [2.0]
    assert ran(cached) == [1]


async def test_who_waits_for_one_that_is_lost_runs_itself() -> None:
    """A caller who goes away takes nobody along."""
    session = HeldSession()
    cached = model(session)
    first = asyncio.create_task(answer(cached, 1.0))
    await asyncio.to_thread(session.begun.wait, 10)
    second = asyncio.create_task(answer(cached, 1.0))
    await asyncio.sleep(0)
    first.cancel()
    session.go_on.set()
    assert await second == [2.0]


async def test_text_is_told_apart_by_its_parts() -> None:
    """("ab", "c") is not ("a", "bc")."""
    spec = TensorSpec("x", DATATYPES["BYTES"], (-1, 2))

    class Joining(HeldSession):
        signature = Signature((spec,), (TensorSpec("y", DATATYPES["BYTES"], (-1, 1)),), True)

        def join(self, columns: Any, rows: int, tails: Any) -> dict[str, Any]:
            return {"x": np.concatenate(columns[0])}

        def run(self, feeds: dict[str, Any]) -> list[Any]:
            self.rows.append(len(feeds["x"]))
            return [np.array([["|".join(row)] for row in feeds["x"]], object)]

    cached = model(Joining())
    for parts in (("ab", "c"), ("a", "bc"), ("ab", "c")):
        tensor = InputTensor("x", "BYTES", (1, 2), np.array([parts], object))
        _, (batch, first) = await cached.infer(InferenceRequest("m", "", [tensor]))
        assert batch.arrays[0][first, 0] == "|".join(parts)
    assert ran(cached) == [1, 1]


async def test_equal_bytes_of_another_shape_are_another_request() -> None:
    """Where the model takes any."""
    free = spec("x", (-1, -1))
    cached = model(Step(inputs=[free], output=spec("y", (-1, -1))))
    for shape in ((1, 4), (2, 2)):
        tensor = InputTensor("x", "FP32", shape, bytes(16))
        _, (batch, _) = await cached.infer(InferenceRequest("m", "", [tensor]))
        assert batch.arrays[0].shape == shape


async def test_a_large_tensor_is_hashed_beside_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second of hashing would be a second for everybody."""
    threads: list[int] = []
    monkeypatch.setattr("lepton_inference.response_cache._HASH_INLINE_BYTES", 16)

    def key(checked: Any) -> bytes:
        threads.append(threading.get_ident())
        return b"k"

    monkeypatch.setattr("lepton_inference.response_cache._key", key)
    cached = model()
    await answer(cached, 1.0)
    await answer(cached, 1.0, rows=2)
    assert [one == threading.get_ident() for one in threads] == [True, False]


async def test_the_data_plane_asks_the_cache_each_time() -> None:
    """The short way for requests like one before does not pass it by."""
    serving = Serving()
    cached = model()
    serving.put("w", Served("m", ServingState.READY, models=[cached], weights=[1]))
    protocol = OpenInference(serving)
    admitted = await OpenGate(serving).admit("", {})
    answers = [await protocol.infer_framed(admitted, framed_request()) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]
    assert pb.ModelInferResponse.FromString(answers[0][5:]).outputs[0].name == "y"
    assert admitted.workspace.plans.find(framed_request()) is None
    assert ran(cached) == [1]
    metrics = {
        (sample.name, sample.labels.get("result")): sample.value
        for metric in ServingCollector(serving).collect()
        for sample in metric.samples
        if sample.name.startswith("lepton_inference_cache")
    }
    assert metrics == {
        ("lepton_inference_cache_lookups_total", "hit"): 2.0,
        ("lepton_inference_cache_lookups_total", "miss"): 1.0,
        ("lepton_inference_cache_bytes", None): float(ENTRY),
    }


@pytest.mark.parametrize("size", [-1, 1, 4095, (1 << 40) + 1])
def test_a_bound_that_cannot_work_is_refused(size: int) -> None:
    with pytest.raises(EndpointInvalid, match="response_cache_bytes"):
        check_model_settings(ModelSettings(response_cache_bytes=size))
