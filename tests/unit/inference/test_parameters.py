"""Parameters of requests: what each takes, and where an unsuitable one is refused."""

from __future__ import annotations

from typing import Any

import pytest

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.parameters import (
    ParameterInvalid,
    ParameterUnsupported,
    priority_of,
    refuse_unsupported,
    routing_key_of,
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
        refuse_unsupported({"sequence_id": 7})


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
