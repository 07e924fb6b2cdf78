"""What becomes of requests that were routed to a model which is replaced before they reach it."""

from __future__ import annotations

import asyncio

import numpy as np

from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.settings import BatchingSettings, Link, ModelSettings, SequenceSettings
from lepton_inference.signature import InferenceRequest, InputTensor
from tests.unit.inference.test_asgi import HeldSession

LARGE = 1 << 17
"""Rows; more bytes than are hashed on the event loop."""


def model(settings: ModelSettings) -> LoadedModel:
    session = HeldSession()
    session.go_on.set()
    return LoadedModel(ModelSource("m", "1", "test", ""), session, settings)


def request(rows: int) -> InferenceRequest:
    raw = np.ones((rows, 2), np.float32).tobytes()
    return InferenceRequest("m", "", [InputTensor("x", "FP32", (rows, 2), raw)])


async def test_a_request_that_is_looked_up_in_the_cache_is_answered() -> None:
    """Its digest is computed on a thread while the model is closed."""
    batching = BatchingSettings(max_rows=LARGE)
    asked = model(ModelSettings(batching=batching, response_cache_bytes=1 << 20))
    asking = asyncio.create_task(asked.infer(request(LARGE)))
    await asyncio.sleep(0)  # it begins
    await asked.close()
    _, (batch, first) = await asking
    assert batch.arrays[0][first, 0] == 2.0


async def test_a_request_that_generates_is_answered_to_its_end() -> None:
    """A model that keeps no states makes all steps of what it has begun."""
    sequences = SequenceSettings(feed_back=(Link("y", "x"),), max_steps=5)
    asked = model(ModelSettings(sequences=sequences))
    steps = asked.generate(request(1))
    await anext(steps)
    closing = asyncio.create_task(asked.close(60.0))
    await asyncio.sleep(0)  # it begins
    assert [step.final async for step in steps] == [False, False, False, True]
    await closing
