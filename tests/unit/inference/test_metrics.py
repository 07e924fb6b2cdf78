"""What Prometheus is told of the models that are served."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from lepton_inference.metrics import ServingCollector
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.reports import statistics as reported
from lepton_inference.serving import Served, Serving, ServingState
from lepton_inference.settings import ModelSettings
from lepton_inference.signature import InferenceRequest, InputTensor
from lepton_inference.statistics import Histogram, Statistics
from lepton_inference.tensors import TensorInvalid
from tests.unit.inference.test_asgi import HeldSession

LABELS = {"workspace": "w", "endpoint": "m", "version": "1"}


def test_a_bound_belongs_to_its_bucket() -> None:
    """Prometheus' ``le`` is inclusive; what is above every bound goes into the last bucket."""
    histogram = Histogram((10, 20))
    for value, count in ((10, 1), (11, 2), (20, 1), (21, 5)):
        histogram.add(value, count)
    assert histogram.counts == [1, 3, 5]
    assert histogram.sum == 10 + 22 + 20 + 105


@pytest.mark.parametrize("starts", [(95, 96, 97), (97, 60, 95, 88)])
def test_times_of_many_are_counted_as_one_by_one(starts: tuple[int, ...]) -> None:
    """Whether all fall into one bucket or into several."""
    together, alone = Histogram((10, 20)), Histogram((10, 20))
    together.add_since(starts, 100)
    for start in starts:
        alone.add(100 - start)
    assert (together.counts, together.sum) == (alone.counts, alone.sum)


def test_a_batch_counts_for_each_of_its_requests() -> None:
    """Stages add up to the whole time; the batch itself is counted once."""
    counted = Statistics()
    counted.batch_done(
        rows=3,
        enqueued_ns=[0, 100],
        started_ns=1_000,
        joined_ns=2_000,
        inferred_ns=60_000,
        ended_ns=61_000,
    )
    stages = (counted.queue, counted.compute_input, counted.compute_infer, counted.compute_output)
    assert sum(stage.sum for stage in stages) == counted.success.sum == 2 * 61_000 - 100
    assert counted.success.counts[:3] == [0, 2, 0]
    assert counted.batch_rows.duration.count == 1


async def test_what_is_scraped_is_what_happened() -> None:
    """Buckets are cumulative, failures carry their reason, and ModelStatistics agrees."""
    session = HeldSession()
    session.go_on.set()
    model = LoadedModel(ModelSource("m", "1", "test", ""), session, ModelSettings())
    serving = Serving()
    serving.put("w", Served("m", ServingState.READY, models=[model], weights=[1]))
    registry = CollectorRegistry()
    registry.register(ServingCollector(serving))
    right, wrong = (
        InferenceRequest("m", "", [InputTensor("x", "FP32", (1, 2), bytes(size))])
        for size in (8, 7)
    )
    await asyncio.gather(*(model.infer(right) for _ in range(3)))
    with pytest.raises(TensorInvalid):
        await model.infer(wrong)

    def sample(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"lepton_inference_{name}", LABELS | labels)

    assert sample("requests_total", result="OK") == 3
    assert sample("requests_total", result="TENSOR_INVALID") == 1
    assert sample("request_seconds_count") == 3
    assert sample("request_seconds_bucket", le="+Inf") == 3
    for stage in ("queue", "compute_input", "compute_infer", "compute_output"):
        assert sample("stage_seconds_count", stage=stage) == 3
    batches = sample("batch_rows_count")
    assert batches == model.statistics.executions
    assert sample("batch_rows_sum") == 3
    assert b'le="5e-05"' in generate_latest(registry)
    told = reported(model)
    assert (told.inference_stats.success.count, told.inference_stats.fail.count) == (3, 1)
    assert told.inference_stats.success.ns == model.statistics.success.sum
    await model.close()


async def test_who_went_away_is_counted_as_cancelled() -> None:
    """A request that was given up while it waited is no success and not lost from sight."""
    session = HeldSession()
    session.go_on.set()
    model = LoadedModel(ModelSource("m", "1", "test", ""), session, ModelSettings())
    future = model.batcher.submit((bytes(8),), 1, ((2,),))
    future.cancel()
    await model.close()
    assert {reason: each.count for reason, each in model.statistics.failures.items()} == {
        "CANCELLED": 1
    }
