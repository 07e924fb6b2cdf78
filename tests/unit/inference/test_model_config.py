"""Which parts of Triton's ModelConfig an endpoint takes, and what it says of the others."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lepton_inference.model_config import parse_config
from lepton_inference.settings import BatchingSettings, ExecutionSettings, ModelSettings
from lepton_mesh.errors import LeptonError

BEFORE = ModelSettings(
    BatchingSettings(max_rows=8, max_delay_seconds=0.5, max_queue=7, adaptive_delay=True),
    ExecutionSettings(instances=2),
    response_cache_bytes=1 << 20,
)


def changed(**config: Any) -> ModelSettings:
    return parse_config(json.dumps(config), "m")(BEFORE)


def test_what_is_not_said_stays() -> None:
    """Names that only describe change nothing."""
    assert changed() == BEFORE
    assert changed(name="m", platform="onnxruntime_onnx", backend="onnxruntime") == BEFORE


@pytest.mark.parametrize(("size", "rows"), [(32, 32), (1, 1), (0, 1)])
def test_the_largest_batch(size: int, rows: int) -> None:
    """0 turns batching off, as 1 does."""
    for key in ("max_batch_size", "maxBatchSize"):
        assert changed(**{key: size}).batching.max_rows == rows


def test_dynamic_batching_is_taken_as_a_whole() -> None:
    """What it leaves out is at its default, as in Triton; rows stay, which it does not have."""
    assert changed(
        dynamic_batching={
            "preferred_batch_size": [2, 4],
            "max_queue_delay_microseconds": 300,
            "priority_levels": 3,
            "default_priority_level": 2,
            "default_queue_policy": {"max_queue_size": 9},
        }
    ).batching == BatchingSettings(
        max_rows=8,
        max_delay_seconds=0.0003,
        max_queue=9,
        preferred_rows=(2, 4),
        adaptive_delay=True,
        priority_levels=3,
        default_priority=2,
    )
    assert changed(dynamic_batching={}).batching == BatchingSettings(max_rows=8)


def test_instances_and_the_cache() -> None:
    """The count of the one group; the cache can be switched off, and on where it has a size."""
    assert changed(instance_group=[{"count": 3}]).execution.instances == 3
    assert changed(instance_group=[{}]).execution.instances == 1
    assert changed(response_cache={"enable": True}).response_cache_bytes == 1 << 20
    assert changed(response_cache={"enable": False}).response_cache_bytes == 0


@pytest.mark.parametrize(
    ("config", "reason", "names"),
    [
        ("{", "PARAMETER_INVALID", "config"),
        ("[]", "PARAMETER_INVALID", "config"),
        ("null", "PARAMETER_INVALID", "config"),
        ('{"max_batch": 3}', "PARAMETER_INVALID", "max_batch"),
        ('{"max_batch_size": "many"}', "PARAMETER_INVALID", "max_batch_size"),
        ('{"name": "n"}', "PARAMETER_INVALID", "'n'"),
        ('{"backend": "python"}', "PARAMETER_UNSUPPORTED", "onnxruntime"),
        ('{"platform": "tensorrt_plan"}', "PARAMETER_UNSUPPORTED", "onnxruntime_onnx"),
        ('{"optimization": {"priority": "PRIORITY_MAX"}}', "PARAMETER_UNSUPPORTED", "optimization"),
        ('{"input": [{"name": "x"}]}', "PARAMETER_UNSUPPORTED", "input"),
        (
            '{"dynamic_batching": {"preserve_ordering": true}}',
            "PARAMETER_UNSUPPORTED",
            "dynamic_batching.preserve_ordering",
        ),
        (
            '{"dynamic_batching": {"default_queue_policy": {"timeout_action": "DELAY"}}}',
            "PARAMETER_UNSUPPORTED",
            "default_queue_policy.timeout_action",
        ),
        ('{"instance_group": [{}, {}]}', "PARAMETER_UNSUPPORTED", "2 instance groups"),
        (
            '{"instance_group": [{"kind": "KIND_GPU"}]}',
            "PARAMETER_UNSUPPORTED",
            "instance_group.kind",
        ),
    ],
)
def test_what_has_no_setting_is_refused_by_name(config: str, reason: str, names: str) -> None:
    """Nothing that is asked is ignored."""
    with pytest.raises(LeptonError) as caught:
        parse_config(config, "m")
    assert caught.value.reason == reason
    assert names in caught.value.message


def test_a_default_priority_needs_levels() -> None:
    """Without them it would be without effect."""
    config = '{"dynamic_batching": {"default_priority_level": 1}}'
    with pytest.raises(LeptonError, match="default_priority"):
        parse_config(config, "m")(ModelSettings())


def test_a_cache_without_a_size_cannot_be_switched_on() -> None:
    """The message names the setting that has one."""
    with pytest.raises(LeptonError, match="response_cache_bytes"):
        parse_config('{"response_cache": {"enable": true}}', "m")(ModelSettings())
