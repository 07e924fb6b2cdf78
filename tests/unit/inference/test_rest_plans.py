"""What the data plane remembers of REST requests, so that the next one like it is quick."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.inference_plane import Answer, Plane

PATH = "/v2/models/linear/infer"
COMMON: dict[str, Any] = {"parameters": {"binary_data_output": True}}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Plane:
    return Plane(tmp_path_factory.mktemp("models"))


def head(rows: int = 1, **more: Any) -> bytes:
    tensor = {
        "name": "image",
        "datatype": "FP32",
        "shape": [rows, 4],
        "parameters": {"binary_data_size": 16 * rows},
    }
    return json.dumps({"inputs": [tensor], **COMMON, **more}).encode()


def raw(value: float, rows: int = 1) -> bytes:
    return np.full((rows, 4), value, np.float32).tobytes()


def ask(
    plane: Plane, json_part: bytes, tensor: bytes, path: str = PATH, **headers: bytes
) -> Answer:
    length = {"inference-header-content-length": str(len(json_part)).encode()}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return plane.ask("POST", path, length | named, [json_part + tensor])


def remembered(plane: Plane) -> int:
    return len(plane.serving.workspace("w").rest_plans._plans)


def score(answer: Answer) -> list[float]:
    start = int(answer.headers["inference-header-content-length"])
    return np.frombuffer(answer.body[start:], np.float32).tolist()


def test_the_second_answer_is_as_the_first(plane: Plane) -> None:
    """Byte for byte, headers too; another tensor gets its own answer."""
    plane.forget()
    first = ask(plane, head(), raw(1))
    assert remembered(plane) == 1
    assert ask(plane, head(), raw(1)) == first
    assert score(ask(plane, head(), raw(7))) == [28.0] * 3
    for _ in range(2):
        assert score(ask(plane, head(rows=2), raw(2, rows=2))) == [8.0] * 6
    assert remembered(plane) == 2


@pytest.mark.parametrize(
    ("uncommon", "headers"),
    [
        ({"id": "seven"}, {}),
        ({"parameters": {}}, {}),
        ({"parameters": {"binary_data_output": True, "priority": 1}}, {}),
        ({"parameters": {"binary_data_output": True, "timeout": 10_000_000}}, {}),
        ({"parameters": {"binary_data_output": True, "routing_key": "u"}}, {}),
        ({"outputs": [{"name": "scores", "parameters": {"binary_data": False}}]}, {}),
        ({"outputs": [{"name": "scores", "parameters": {"classification": 1}}]}, {}),
        ({"remark": "x" * 4096}, {}),
        ({}, {"content_encoding": b"gzip"}),
    ],
)
def test_what_is_not_common_is_not_remembered(
    plane: Plane, uncommon: dict[str, Any], headers: dict[str, bytes]
) -> None:
    """It goes the general way each time, and is answered."""
    plane.forget()
    json_part, tensor = head(**uncommon), raw(1)
    body = json_part + tensor
    length = {"inference-header-content-length": str(len(json_part)).encode()}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    sent = gzip.compress(body) if headers else body
    answer = plane.ask("POST", PATH, length | named, [sent])
    assert answer.status == 200, answer.body
    assert remembered(plane) == 0


def test_a_tensor_of_another_length_than_the_json_says_is_refused(plane: Plane) -> None:
    """Also once the JSON is known: no other row of the batch is shifted by it."""
    plane.forget()
    assert ask(plane, head(), raw(1)).status == 200
    for tensor in (raw(1)[:-4], raw(1) + bytes(4), b""):
        assert ask(plane, head(), tensor).status == 400


def test_the_path_is_part_of_what_is_remembered(plane: Plane) -> None:
    """The same JSON asks another version, or nobody."""
    plane.forget()
    assert ask(plane, head(), raw(1)).status == 200
    assert ask(plane, head(), raw(1), "/v2/models/linear/versions/9/infer").status == 404
    assert ask(plane, head(), raw(1), "/v2/models/nothing/infer").status == 404
    assert plane.ask("GET", PATH, {"inference-header-content-length": b"1"}, [b""]).status == 405


def test_an_endpoint_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    """What a name means has changed with what is served."""
    plane = Plane(tmp_path)
    assert ask(plane, head(), raw(1)).status == 200
    plane.serving.remove("w", "linear")
    assert ask(plane, head(), raw(1)).status == 404
