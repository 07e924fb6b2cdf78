"""Settings of endpoints: what is out of bounds or without effect is refused, and named."""

from __future__ import annotations

import pytest

from lepton.api.inference.v1 import inference_pb2 as pb
from lepton_inference.convert import wanted_of
from lepton_inference.settings import (
    BatchingSettings,
    EndpointInvalid,
    check_effect,
    check_model_settings,
)


@pytest.mark.parametrize(
    ("batching", "field"),
    [
        ({"max_batch_rows": 5000}, "max_batch_rows"),
        ({"max_batch_rows": -1}, "max_batch_rows"),
        ({"max_delay_us": 10_000_001}, "max_delay_us"),
        ({"max_queue": -1}, "max_queue"),
        ({"preferred_batch_rows": [8, 4]}, "preferred_batch_rows"),
        ({"preferred_batch_rows": [4, 4]}, "preferred_batch_rows"),
        ({"preferred_batch_rows": [0]}, "preferred_batch_rows"),
        ({"preferred_batch_rows": [65]}, "preferred_batch_rows"),
        ({"preferred_batch_rows": list(range(1, 18))}, "preferred_batch_rows"),
        ({"max_batch_rows": 1, "max_delay_us": 5}, "max_batch_rows"),
        ({"max_batch_rows": 1, "preferred_batch_rows": [1]}, "max_batch_rows"),
        ({"max_batch_rows": 1, "pad_ragged": True}, "max_batch_rows"),
        ({"priority_levels": 65}, "priority_levels"),
        ({"priority_levels": -1}, "priority_levels"),
        ({"priority_levels": 2, "default_priority": 3}, "default_priority"),
        ({"default_priority": 2}, "default_priority"),
        ({"adaptive_delay": True}, "adaptive_delay"),
    ],
)
def test_what_cannot_be_is_refused(batching: dict[str, object], field: str) -> None:
    """The field is named."""
    wanted = wanted_of(pb.Endpoint(batching=pb.Batching(**batching)))
    with pytest.raises(EndpointInvalid, match=field):
        check_model_settings(wanted.settings)


def test_what_is_not_said_has_its_default() -> None:
    """Requests that name no priority are served last where there are several levels."""
    assert wanted_of(pb.Endpoint()).settings.batching == BatchingSettings()
    several = wanted_of(pb.Endpoint(batching=pb.Batching(priority_levels=3))).settings
    assert several.batching.default_priority == 3
    check_model_settings(several)


@pytest.mark.parametrize("instances", [-1, 65])
def test_instances_are_bounded(instances: int) -> None:
    """The field is named."""
    wanted = wanted_of(pb.Endpoint(execution=pb.Execution(instances=instances)))
    with pytest.raises(EndpointInvalid, match=r"execution\.instances"):
        check_model_settings(wanted.settings)


@pytest.mark.parametrize(
    ("batching", "batched", "ragged", "field"),
    [
        ({"max_delay_us": 5}, False, False, "max_delay_us"),
        ({"preferred_batch_rows": [4]}, False, True, "preferred_batch_rows"),
        ({"pad_ragged": True}, False, True, "pad_ragged"),
        ({"pad_ragged": True}, True, False, "pad_ragged"),
        ({"pad_ragged": True, "max_delay_us": 5}, True, True, ""),
        ({"max_queue": 5, "priority_levels": 2}, False, False, ""),
    ],
)
def test_what_has_no_effect_on_a_model_is_refused(
    batching: dict[str, object], batched: bool, ragged: bool, field: str
) -> None:
    """The field is named."""
    settings = wanted_of(pb.Endpoint(batching=pb.Batching(**batching))).settings
    if not field:
        check_effect(settings, batched=batched, ragged=ragged)
        return
    with pytest.raises(EndpointInvalid, match=field):
        check_effect(settings, batched=batched, ragged=ragged)
