"""What is said of a REST body that is wrong: what it is, and where."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lepton_inference import rest_codec
from lepton_inference.json_tensors import values_of
from lepton_inference.tensors import DATATYPES, TensorInvalid
from lepton_mesh.errors import InvalidArgument
from tests.inference_plane import Plane


def whole(**changes: Any) -> bytes:
    tensor = {"name": "x", "shape": [4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    return json.dumps({"inputs": [tensor]} | changes).encode()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"inputs": [1 2]}', "not JSON at line 1, column 15; correct the comma"),
        (b'{\n "id": "a",\n}', r"not JSON at line [23], column \d"),
        (b'{"inputs": [', "ends at line 1, column 13, before it is whole"),
        (b" ", "the body is empty"),
        (b'{"id": "\xff"}', "byte 8, counted from 0, is not UTF-8"),
        (b'{"id": ' + b"1" * 5000 + b"}", "too many digits"),
        (b"[" * 100_000, "nested too deep"),
        (whole(id=5), "'id' is 5; it takes text"),
        (whole(id=None), "'id' is null; it takes text"),
        (whole(id=["a"]), "'id' is a list; it takes text"),
        (whole(id={}), "'id' is an object; it takes text"),
        (b'{"inputs": [{}]}', "'name' is missing; it takes text"),
        (whole(outputs=[{"name": "b"}, {"name": "a"}, {"name": "a"}]), "'a' is asked for twice"),
    ],
)
def test_the_fault_is_named(body: bytes, said: str) -> None:
    """With its place, where there is one."""
    with pytest.raises(InvalidArgument, match=said):
        rest_codec.decode("m", "", None, body, 1 << 20)


@pytest.mark.parametrize(
    ("datatype", "data", "said"),
    [
        ("FP32", [1, 2.5, "c", 4], 'FP32: element 2, .* is "c"'),
        ("FP32", [[1, 2], [3, None]], "element 3, .* is null"),
        ("FP32", [1, 2, 1e39], r"element 2, .* is 1e\+39"),
        ("FP32", [1.5, True], "element 1, .* is true"),
        ("INT8", [True, 4], "INT8: element 0, .* is true"),
        ("INT8", [True, True], "element 0, .* is true"),
        ("INT8", [[1, 0], [0, False]], "element 3, .* is false"),
        ("INT8", [1] * 1000 + [128] + [1] * 30, "element 1000, .* is 128"),
        ("INT32", [1, 2, 2.0], "element 2, .* is 2.0"),
        ("UINT64", [2**64 - 1, -1], "element 1, .* is -1"),
        ("INT64", [1, 10**400], "element 1, .* is 1000"),
        ("BOOL", [True, 2], "element 1, .* is 2"),
        ("BYTES", ["a", 1], "BYTES: element 1, .* is 1"),
        ("BYTES", ["a", {"b": 1}], "element 1, .* is an object"),
        ("BYTES", [["a"], ["b", "c"]], "ragged"),
        ("FP32", "x" * 1000, 'element 0, .* is "x{40}"$'),
    ],
)
def test_the_first_element_that_is_wrong_is_named(datatype: str, data: Any, said: str) -> None:
    """By its place, row by row, and what it is, cut where it is long."""
    with pytest.raises(TensorInvalid, match=said):
        values_of(data, "x", DATATYPES[datatype])


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("INT8", [1, 0]),
        ("BOOL", [True, 0]),
        ("FP32", [[1, 2.5]]),
        ("BYTES", [["a"], [""]]),
        ("UINT64", [2**64 - 1, 1]),
        ("FP32", []),
    ],
)
def test_what_the_datatype_holds_is_taken(datatype: str, data: Any) -> None:
    """As it is."""
    assert values_of(data, "x", DATATYPES[datatype]).tolist() == data


def test_an_input_that_is_there_twice_is_named(plane: Plane) -> None:
    """As an output is."""
    tensor = {"name": "image", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    body = json.dumps({"inputs": [tensor, tensor]}).encode()
    answer = plane.ask("POST", "/v2/models/linear/infer", {}, [body])
    assert "the input 'image' is there twice" in json.loads(answer.body)["error"]


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Plane:
    return Plane(tmp_path_factory.mktemp("models"))
