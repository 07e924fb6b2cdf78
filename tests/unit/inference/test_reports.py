"""What ModelConfig says of an endpoint's settings."""

from __future__ import annotations

from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.reports import config
from lepton_inference.settings import BatchingSettings, ExecutionSettings, ModelSettings
from tests.unit.inference.test_asgi import HeldSession


async def test_the_configuration_is_what_was_set() -> None:
    """In Triton's terms; zero levels mean that priorities do not count."""
    source = ModelSource("m", "1", "test", "")
    batching = BatchingSettings(
        max_rows=32,
        max_delay_seconds=0.0005,
        max_queue=7,
        preferred_rows=(8, 16),
        priority_levels=3,
        default_priority=2,
        adaptive_delay=True,
    )
    told = config(LoadedModel(source, HeldSession(), ModelSettings(batching, ExecutionSettings(3))))
    assert told.max_batch_size == 32
    assert told.instance_group[0].count == 3
    assert told.parameters["pad_ragged"].string_value == "false"
    assert told.parameters["adaptive_delay"].string_value == "true"
    dynamic = told.dynamic_batching
    assert list(dynamic.preferred_batch_size) == [8, 16]
    assert dynamic.max_queue_delay_microseconds == 500
    assert (dynamic.priority_levels, dynamic.default_priority_level) == (3, 2)
    assert dynamic.default_queue_policy.max_queue_size == 7
    plain = config(LoadedModel(source, HeldSession(), ModelSettings())).dynamic_batching
    assert (plain.priority_levels, plain.default_priority_level) == (0, 0)
