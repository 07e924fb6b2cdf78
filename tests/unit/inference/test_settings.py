"""Settings of endpoints: what is out of bounds or without effect is refused, and named."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict

from lepton.api.inference.v1 import inference_pb2 as pb
from lepton_inference.convert import endpoint_message, wanted_of
from lepton_inference.endpoint import Endpoint, ModelVersion, State, Target
from lepton_inference.settings import (
    BatchingSettings,
    EndpointInvalid,
    ModelSettings,
    check_effect,
    check_model_settings,
)


def shown(settings: ModelSettings) -> pb.Endpoint:
    """An endpoint with those settings, as clients see it."""
    version = ModelVersion("models/m/versions/1", "artifacts/a", "5" * 64)
    now = datetime.now(UTC)
    return endpoint_message(
        Endpoint(
            "lab",
            "e",
            (Target("models/m/versions/1", 1, version),),
            settings,
            State.READY,
            creator="users/ada",
            created=now,
            updated=now,
        )
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
        ({"default_priority": 1}, "default_priority has no effect"),
        ({"default_priority": 1, "priority_levels": 1}, "default_priority has no effect"),
        ({"adaptive_delay": True}, "adaptive_delay"),
    ],
)
def test_what_cannot_be_is_refused(batching: dict[str, object], field: str) -> None:
    """The field is named."""
    with pytest.raises(EndpointInvalid, match=field):
        check_model_settings(wanted_of(pb.Endpoint(batching=pb.Batching(**batching))).settings)


def test_what_is_not_said_has_its_default() -> None:
    """Requests that name no priority are served last where there are several levels."""
    assert wanted_of(pb.Endpoint()).settings.batching == BatchingSettings()
    several = wanted_of(pb.Endpoint(batching=pb.Batching(priority_levels=3))).settings
    assert several.batching.default_priority == 3
    check_model_settings(several)


@pytest.mark.parametrize("batching", [{}, {"priority_levels": 3, "default_priority": 2}])
def test_what_is_shown_may_be_sent_back(batching: dict[str, Any]) -> None:
    """It is what was asked, with the defaults of what was not, and asks for the same again."""
    settings = wanted_of(pb.Endpoint(batching=pb.Batching(**batching))).settings
    again = wanted_of(pb.Endpoint(batching=shown(settings).batching)).settings
    assert again == settings


@pytest.mark.parametrize(
    ("execution", "field"),
    [
        ({"instances": -1}, "instances"),
        ({"instances": 65}, "instances"),
        ({"isolation": 9}, "isolation"),
        ({"memory_limit_mib": -1}, "memory_limit_mib"),
        ({"memory_limit_mib": 2 << 20}, "memory_limit_mib"),
        ({"max_run_ms": -1}, "max_run_ms"),
        ({"max_run_ms": 3_600_001}, "max_run_ms"),
        ({"isolation": "SHARED", "max_run_ms": 5}, "max_run_ms"),
        ({"devices": [-1]}, "devices"),
        ({"devices": [64]}, "devices"),
        ({"devices": [1, 1], "instances": 2}, "devices"),
        ({"devices": [0, 1]}, "devices"),
        ({"isolation": "SHARED", "memory_limit_mib": 5}, "memory_limit_mib"),
    ],
)
def test_execution_is_bounded(execution: dict[str, object], field: str) -> None:
    """The field is named."""
    with pytest.raises(EndpointInvalid, match=rf"execution\.{field}"):
        check_model_settings(wanted_of(pb.Endpoint(execution=pb.Execution(**execution))).settings)


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


LINK = {"output": "h_next", "input": "h"}
OTHER = {"output": "y", "input": "x"}


@pytest.mark.parametrize(
    ("sequences", "field"),
    [
        ({}, "sequences"),
        ({"states": [LINK, LINK]}, "sequences"),
        ({"states": [{"output": "h_next"}]}, "sequences"),
        ({"states": [LINK], "feed_back": [{"output": "y", "input": "h"}]}, "sequences"),
        ({"states": [LINK] * 65}, "states"),
        ({"states": [LINK], "max_idle_us": -1}, "max_idle_us"),
        ({"states": [LINK], "max_idle_us": 86_400_000_001}, "max_idle_us"),
        ({"states": [LINK], "max_sequences": 65_537}, "max_sequences"),
        ({"states": [LINK], "max_steps": 5}, "max_steps"),
        ({"feed_back": [OTHER], "max_steps": 65_537}, "max_steps"),
        ({"feed_back": [OTHER], "max_idle_us": 5}, "max_idle_us"),
        ({"feed_back": [OTHER], "max_sequences": 5}, "max_sequences"),
    ],
)
def test_sequences_that_cannot_be_are_refused(sequences: dict[str, object], field: str) -> None:
    """The field is named."""
    message = ParseDict({"sequences": sequences}, pb.Endpoint())
    with pytest.raises(EndpointInvalid, match=field):
        check_model_settings(wanted_of(message).settings)


def test_a_model_that_remembers_has_no_response_cache() -> None:
    """Its answers depend on more than the request."""
    message = ParseDict({"sequences": {"states": [LINK]}}, pb.Endpoint(response_cache_bytes=4096))
    with pytest.raises(EndpointInvalid, match="response_cache_bytes"):
        check_model_settings(wanted_of(message).settings)


def test_sequences_are_shown_as_they_are() -> None:
    """What was asked comes back, with the defaults of what was not."""
    asked = {"states": [LINK], "feed_back": [OTHER], "max_idle_us": "1500000", "max_steps": 9}
    settings = wanted_of(ParseDict({"sequences": asked}, pb.Endpoint())).settings
    check_model_settings(settings)
    assert MessageToDict(shown(settings).sequences, preserving_proto_field_name=True) == {
        **asked,
        "max_sequences": 1024,
    }
    assert not wanted_of(pb.Endpoint()).settings.sequences
