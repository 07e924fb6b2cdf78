"""Parameters of requests: what each takes, and where an unsuitable one is refused."""

from __future__ import annotations

from typing import Any

import pytest

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.parameters import (
    Generation,
    ParameterInvalid,
    ParameterUnsupported,
    SequenceStep,
    generation_of,
    priority_of,
    refuse_unsupported,
    routing_key_of,
    sequence_of,
    timeout_of,
)
from lepton_inference.settings import BatchingSettings, ModelSettings
from lepton_inference.signature import InferenceRequest, InputTensor
from lepton_inference.wire import request_of
from tests.unit.inference.test_asgi import HeldSession


def test_what_is_given_is_taken() -> None:
    """As a number or as text, as clients send them; absent is the default."""
    assert (priority_of({"priority": 3}), priority_of({"priority": "3"}), priority_of({})) == (
        3,
        3,
        0,
    )
    assert (timeout_of({"timeout": 1_500_000}), timeout_of({"timeout": 0})) == (1.5, None)
    assert routing_key_of({"routing_key": "user-7"}) == "user-7"
    assert routing_key_of({"routing_key": 7}) == "7"
    assert routing_key_of({}) == ""


@pytest.mark.parametrize("value", [-1, "high", 1.5, True])
def test_a_priority_is_a_whole_number(value: object) -> None:
    """Anything else is told, not guessed."""
    with pytest.raises(ParameterInvalid, match="priority"):
        priority_of({"priority": value})


@pytest.mark.parametrize("value", [1.5, True, None])
def test_a_routing_key_is_text_or_a_whole_number(value: object) -> None:
    """Anything else is told, not guessed."""
    with pytest.raises(ParameterInvalid, match="routing_key"):
        routing_key_of({"routing_key": value})


def test_what_is_not_done_is_refused() -> None:
    """A parameter that the protocol gives a meaning to is never ignored."""
    with pytest.raises(ParameterUnsupported):
        refuse_unsupported({"classification": 7})


def test_a_sequence_is_named_by_number_or_text() -> None:
    """0 and "" name none; 7 and "7" are two."""
    started = {"sequence_start": True, "sequence_end": False}
    assert sequence_of({"sequence_id": 7, **started}) == SequenceStep(7, True, False)
    assert sequence_of({"sequence_id": "7", "sequence_end": True}) == SequenceStep("7", False, True)
    assert sequence_of({"sequence_id": 2**64 - 1}) is not None
    for none in ({}, {"sequence_id": 0}, {"sequence_id": "", "sequence_end": False}):
        assert sequence_of(none) is None


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"sequence_id": -1}, "sequence_id"),
        ({"sequence_id": 2**64}, "sequence_id"),
        ({"sequence_id": 1.5}, "sequence_id"),
        ({"sequence_id": True}, "sequence_id"),
        ({"sequence_id": None}, "sequence_id"),
        ({"sequence_id": "x" * 129}, "sequence_id"),
        ({"sequence_id": 1, "sequence_start": 1}, "sequence_start"),
        ({"sequence_id": 1, "sequence_end": "true"}, "sequence_end"),
        ({"sequence_start": True}, "sequence_id"),
        ({"sequence_id": 0, "sequence_end": True}, "sequence_id"),
    ],
)
def test_a_sequence_that_cannot_be_is_refused(parameters: dict[str, object], name: str) -> None:
    """The parameter is named."""
    with pytest.raises(ParameterInvalid, match=name):
        sequence_of(parameters)


def test_how_far_to_generate_is_taken() -> None:
    """Absent means as far as the endpoint allows."""
    assert generation_of({}) == Generation(0, None, False)
    said = {"max_steps": 5, "end_value": 0, "triton_enable_empty_final_response": True}
    assert generation_of(said) == Generation(5, 0, True)


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_steps": 0},
        {"max_steps": -1},
        {"max_steps": 1.5},
        {"end_value": "2"},
        {"end_value": True},
        {"end_value": float("nan")},
        {"end_value": 10**400},
        {"triton_enable_empty_final_response": 1},
    ],
)
def test_how_far_to_generate_is_checked(parameters: dict[str, object]) -> None:
    """The parameter is named."""
    with pytest.raises(ParameterInvalid, match=next(iter(parameters))):
        generation_of(parameters)


def test_the_public_clients_priority_is_understood() -> None:
    """tritonclient sends it as ``uint64_param``."""
    parameters = {
        "priority": pb.InferParameter(uint64_param=2),
        "routing_key": pb.InferParameter(string_param="k"),
    }
    request = request_of(pb.ModelInferRequest(model_name="m", parameters=parameters))
    assert (request.priority, request.routing_key) == (2, "k")


@pytest.mark.parametrize(
    ("levels", "priority", "accepted"), [(1, 9, True), (2, 0, True), (2, 2, True), (2, 3, False)]
)
async def test_a_priority_is_one_of_the_endpoints_levels(
    levels: int, priority: int, accepted: bool
) -> None:
    """An endpoint of one level takes any, as Triton does."""
    session = HeldSession()
    session.go_on.set()
    settings = ModelSettings(BatchingSettings(priority_levels=levels, default_priority=levels))
    model = LoadedModel(ModelSource("m", "1", "test", ""), session, settings)
    tensor = InputTensor("x", "FP32", (1, 2), bytes(8))
    request: Any = InferenceRequest("m", "", [tensor], priority=priority)
    if accepted:
        await model.infer(request)
    else:
        with pytest.raises(ParameterInvalid, match="1 to 2"):
            await model.infer(request)
    await model.close()
