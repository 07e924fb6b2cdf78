"""Triton's generate extension: what a flat object means, what is refused, and what is answered."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from lepton_inference.rest_generate import _shape
from lepton_inference.tensors import DATATYPES, TensorInvalid, TensorSpec
from tests.inference_plane import Plane

SHARED: dict[str, Any] = {"shared_memory_region": "r", "shared_memory_byte_size": 16}
IMAGE = [1, 2, 3, 4]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Plane:
    return Plane(tmp_path_factory.mktemp("models"))


def ask(plane: Plane, model: str, body: object, way: str = "generate") -> Any:
    """The status and the JSON of an answer."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = plane.ask("POST", f"/v2/models/{model}/{way}", {}, [content])
    if answer.headers["content-type"].startswith("text/event-stream"):
        (event, rest) = answer.body.split(b"\n\n")
        assert (event[:6], rest) == (b"data: ", b"")
        return answer.status, json.loads(event[6:])
    assert answer.headers["content-type"] == "application/json"
    return answer.status, json.loads(answer.body)


@pytest.mark.parametrize("way", ["generate", "generate_stream"])
@pytest.mark.parametrize(
    ("model", "body", "outputs"),
    [
        ("linear", {"image": IMAGE}, {"scores": [10.0] * 3}),
        ("linear", {"image": [IMAGE]}, {"scores": [10.0] * 3}),
        ("linear", {"image": [IMAGE, [0] * 4]}, {"scores": [10.0] * 3 + [0.0] * 3}),
        ("linear", {"image": IMAGE, "mine": "x", "priority": 0}, {"scores": [10.0] * 3}),
        ("linear", {"parameters": {"image": IMAGE}}, {"scores": [10.0] * 3}),
        ("text", {"x": "über"}, {"y": "über"}),
        ("text", {"x": ["über"]}, {"y": "über"}),
        ("text", {"x": [["a"], ["b"]]}, {"y": ["a", "b"]}),
        ("words", {"x": "a"}, {"y": "a"}),
        ("words", {"x": ["a", "b"]}, {"y": ["a", "b"]}),
        ("ragged", {"x": 5}, {"y": 5.0}),
        ("ragged", {"x": [1, 2, 3]}, {"y": [1.0, 2.0, 3.0]}),
        ("fixed", {"x": IMAGE}, {"y": [1.0, 2.0, 3.0, 4.0]}),
        ("fixed", {"x": [[1, 2], [3, 4]]}, {"y": [1.0, 2.0, 3.0, 4.0]}),
        ("two", {"a": [1, 2], "b": [3, 4], "n": 7}, {"total": [4.0, 6.0], "count": 7}),
        ("identity-bool", {"x": [True, False]}, {"y": [True, False]}),
        ("identity-uint64", {"x": [2**64 - 1, 0]}, {"y": [2**64 - 1, 0]}),
        ("identity-fp16", {"x": [0.5, -2]}, {"y": [0.5, -2.0]}),
    ],
)
def test_an_object_is_inputs_and_parameters(
    plane: Plane, model: str, body: dict[str, Any], outputs: dict[str, Any], way: str
) -> None:
    """By the names of the model's inputs; a single element comes without its list."""
    status, answer = ask(plane, model, body, way)
    assert (status, answer) == (200, {"model_name": model, "model_version": "1", **outputs})


def test_an_id_comes_back(plane: Plane) -> None:
    """As infer has it."""
    assert ask(plane, "text", {"x": "a", "id": "r1"})[1]["id"] == "r1"


@pytest.mark.parametrize("way", ["generate", "generate_stream"])
@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{", 400, "BODY_INVALID"),
        (b"[]", 400, "BODY_INVALID"),
        ({"image": IMAGE, "parameters": [1]}, 400, "BODY_INVALID"),
        ({"image": IMAGE, "id": 3}, 400, "BODY_INVALID"),
        ({"image": IMAGE, "parameters": {"image": IMAGE}}, 400, "BODY_INVALID"),
        ({}, 400, "TENSOR_INVALID"),
        ({"text_input": "a"}, 400, "TENSOR_INVALID"),
        ({"image": None}, 400, "TENSOR_INVALID"),
        ({"image": "a"}, 400, "TENSOR_INVALID"),
        ({"image": {"pixels": IMAGE}}, 400, "TENSOR_INVALID"),
        ({"image": [1, 2, 3]}, 400, "TENSOR_INVALID"),
        ({"image": [[1, 2], [3]]}, 400, "TENSOR_INVALID"),
        ({"image": [[[1, 2, 3, 4]]]}, 400, "TENSOR_INVALID"),
        ({"image": [IMAGE] * 1000}, 400, "TENSOR_INVALID"),
        ({"imgae": IMAGE}, 400, "PARAMETER_INVALID"),
        ({"image": IMAGE, "mine": None}, 400, "PARAMETER_INVALID"),
        ({"image": IMAGE, "timeout": -1}, 400, "PARAMETER_INVALID"),
        ({"image": IMAGE, "max_steps": 3}, 400, "PARAMETER_INVALID"),
        ({"image": IMAGE, **SHARED}, 400, "PARAMETER_INVALID"),
        ({"image": IMAGE, "classification": 1}, 501, "PARAMETER_UNSUPPORTED"),
        ({"image": IMAGE, "binary_data_output": True}, 501, "PARAMETER_UNSUPPORTED"),
        ({"image": [3e38] * 4}, 400, "OUTPUT_NOT_FINITE"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    plane: Plane, body: object, status: int, reason: str, way: str
) -> None:
    """With the status it has elsewhere, and JSON, also where events were asked for."""
    told, answer = ask(plane, "linear", body, way)
    assert (told, answer["reason"]) == (status, reason), answer
    assert answer["error"]


def test_a_name_that_is_no_input_is_told_those_that_are(plane: Plane) -> None:
    assert "has image, and" in ask(plane, "linear", {"imgae": IMAGE})[1]["error"]


@pytest.mark.parametrize(
    ("shape", "batched", "data", "expected"),
    [
        ((-1,), True, 1, (1,)),
        ((-1,), True, [1, 2], (2,)),
        ((-1, 1), True, 1, (1, 1)),
        ((-1, -1), True, 1, (1, 1)),
        ((-1, 2, 2), True, [1, 2, 3, 4], (1, 2, 2)),
        ((-1, 2, -1), True, [1, 2, 3, 4, 5, 6], (1, 2, 3)),
        ((-1, 2, 2), True, [[1, 2], [3, 4]], (1, 2, 2)),
        ((-1, 2), False, [1, 2, 3, 4], (2, 2)),
        ((2, 2), False, [1, 2, 3, 4], (2, 2)),
        ((), False, 1, ()),
        ((-1, -1, -1), True, [1, 2], None),
        ((-1, -1, -1), True, 1, None),
        ((-1, 2, 2, 2), True, [[1, 2], [3, 4]], None),
    ],
)
def test_shapes_follow_from_the_models(
    shape: tuple[int, ...], batched: bool, data: object, expected: tuple[int, ...] | None
) -> None:
    """Where there is but one that they can be; else nesting decides, or nothing does."""
    spec = TensorSpec("x", DATATYPES["FP32"], shape)
    if expected is None:
        with pytest.raises(TensorInvalid, match="does not follow"):
            _shape(spec, np.array(data), batched)
    else:
        assert _shape(spec, np.array(data), batched) == expected
