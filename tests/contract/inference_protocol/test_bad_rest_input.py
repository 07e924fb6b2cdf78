"""Bad input over REST is a table: what is sent, the status, the reason."""

from __future__ import annotations

import gzip
import json
import os
from typing import Any

import numpy as np
import pytest

from tests.contract.inference_protocol.doors import Server

INFER = "/v2/models/linear/infer"
GZIP = {"Content-Encoding": "gzip"}
LENGTH = "Inference-Header-Content-Length"
ROW = np.ones((1, 4), np.float32).tobytes()


def rest(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "image", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    return {"inputs": [tensor | changes]}


def changed(**changes: Any) -> bytes:
    return json.dumps(rest(**changes)).encode()


def with_parameter(name: str, value: Any) -> bytes:
    return json.dumps(rest() | {"parameters": {name: value}}).encode()


def binary(size: Any, raw: bytes = ROW, lie: int = 0) -> tuple[bytes, dict[str, str]]:
    """A body whose tensor claims ``size`` raw bytes, and whose JSON's length is off by ``lie``."""
    tensor = {"name": "image", "shape": [1, 4], "datatype": "FP32"}
    header = {"inputs": [{**tensor, "parameters": {"binary_data_size": size}}]}
    text = json.dumps(header).encode()
    return text + raw, {LENGTH: str(len(text) + lie)}


BODIES: dict[str, tuple[bytes, dict[str, str], str]] = {
    "not JSON": (b"{", {}, "BODY_INVALID"),
    "nothing": (b"", {}, "BODY_INVALID"),
    "no object": (b"[]", {}, "BODY_INVALID"),
    "UTF-16": (json.dumps(rest()).encode("utf-16"), {}, "BODY_INVALID"),
    "not UTF-8": (b'{"id": "\xff"}', {}, "BODY_INVALID"),
    "half of a surrogate pair": (changed(name="\ud800"), {}, "BODY_INVALID"),
    "NaN": (changed(data=[float("nan")] * 4), {}, "BODY_INVALID"),
    "infinity": (changed(data=[float("-inf")] * 4), {}, "BODY_INVALID"),
    "deep nesting": (b"[" * 100_000, {}, "BODY_INVALID"),
    "no inputs": (b"{}", {}, "TENSOR_INVALID"),
    "inputs no list": (b'{"inputs": 3}', {}, "BODY_INVALID"),
    "inputs no objects": (b'{"inputs": [3]}', {}, "BODY_INVALID"),
    "parameters no object": (b'{"inputs": [], "parameters": 3}', {}, "BODY_INVALID"),
    "an id that is no text": (json.dumps(rest() | {"id": 3}).encode(), {}, "BODY_INVALID"),
    "no shape": (changed(shape=None), {}, "TENSOR_INVALID"),
    "fractions as shape": (changed(shape=[1, 4.5]), {}, "TENSOR_INVALID"),
    "truth as shape": (changed(shape=[True, 4]), {}, "TENSOR_INVALID"),
    "a negative shape": (changed(shape=[-1, 4]), {}, "TENSOR_INVALID"),
    "a huge shape": (changed(shape=[2**50, 4]), {}, "TENSOR_INVALID"),
    "a shape of many digits": (changed(shape=[10**4000, 10**4000]), {}, "TENSOR_INVALID"),
    "thousands of dimensions": (changed(shape=[2**62] * 5000), {}, "TENSOR_INVALID"),
    "too few data": (changed(data=[1]), {}, "TENSOR_INVALID"),
    "ragged data": (changed(data=[[1, 2], [3]]), {}, "TENSOR_INVALID"),
    "data nested beyond any tensor": (
        changed().replace(b"[1, 2, 3, 4]", b"[" * 90 + b"1" + b"]" * 90),
        {},
        "TENSOR_INVALID",
    ),
    "text as data": (changed(data=["a", "b", "c", "d"]), {}, "TENSOR_INVALID"),
    "objects as data": (changed(data=[{}] * 4), {}, "TENSOR_INVALID"),
    "null as data": (changed(data=[None] * 4), {}, "TENSOR_INVALID"),
    "more than FP32 holds": (changed(data=[1e300, 0, 0, 0]), {}, "TENSOR_INVALID"),
    "more than any float holds": (changed().replace(b"4]}", b"1e999]}"), {}, "TENSOR_INVALID"),
    "integers of many digits": (changed(data=[10**400, 0, 0, 0]), {}, "TENSOR_INVALID"),
    "integers that Python does not read": (
        changed().replace(b"4]}", b"1" * 5000 + b"]}"),
        {},
        "BODY_INVALID",
    ),
    "other datatype": (changed(datatype="INT32"), {}, "TENSOR_INVALID"),
    "unknown datatype": (changed(datatype="FLOAT"), {}, "TENSOR_INVALID"),
    "unknown output": (
        json.dumps(rest() | {"outputs": [{"name": "logits"}]}).encode(),
        {},
        "OUTPUT_UNKNOWN",
    ),
    "an output twice": (
        json.dumps(rest() | {"outputs": [{"name": "scores"}] * 2}).encode(),
        {},
        "OUTPUT_REPEATED",
    ),
    "an output beyond FP32": (changed(data=[3e38] * 4), {}, "OUTPUT_NOT_FINITE"),
    "a timeout of many digits": (with_parameter("timeout", 10**400), {}, "PARAMETER_INVALID"),
    "a negative timeout": (with_parameter("timeout", -1), {}, "PARAMETER_INVALID"),
    "a priority of half a level": (with_parameter("priority", 1.5), {}, "PARAMETER_INVALID"),
    "a word for raw outputs": (with_parameter("binary_data_output", "no"), {}, "PARAMETER_INVALID"),
    "a word for a raw output": (
        json.dumps(
            rest() | {"outputs": [{"name": "scores", "parameters": {"binary_data": "false"}}]}
        ).encode(),
        {},
        "PARAMETER_INVALID",
    ),
    "a bad length": (b"{}", {LENGTH: "99"}, "BODY_INVALID"),
    "a negative length": (b"{}", {LENGTH: "-1"}, "BODY_INVALID"),
    "a length that is none": (b"{}", {LENGTH: "x"}, "BODY_INVALID"),
    "a length of many digits": (b"{}", {LENGTH: "9" * 5000}, "BODY_INVALID"),
    "a length too small": (*binary(16, lie=-1), "BODY_INVALID"),
    "a length too large": (*binary(16, lie=1), "BODY_INVALID"),
    "less binary than claimed": (*binary(17), "BODY_INVALID"),
    "more binary than claimed": (*binary(15), "BODY_INVALID"),
    "a claim of 2 GiB": (*binary(2**31), "BODY_INVALID"),
    "a negative claim": (*binary(-1), "BODY_INVALID"),
    "a claim that is no number": (*binary("16"), "BODY_INVALID"),
    "a claim of truth": (*binary(True, b"x"), "BODY_INVALID"),
    "binary that does not fill the shape": (*binary(12, ROW[:12]), "TENSOR_INVALID"),
    "data and a claim": (changed(parameters={"binary_data_size": 16}), {}, "BODY_INVALID"),
    "broken gzip": (b"not gzip", GZIP, "MESSAGE_INVALID"),
    "half of a gzip": (gzip.compress(b"{}")[:-4], GZIP, "MESSAGE_INVALID"),
    "more than a gzip": (gzip.compress(b"{}") + b"x", GZIP, "MESSAGE_INVALID"),
}

ROWS: dict[str, tuple[str, str, bytes, dict[str, str], int, str]] = {
    "unknown path": ("GET", "/v3", b"", {}, 404, "PATH_UNKNOWN"),
    "unknown path below": ("GET", "/v2/nothing", b"", {}, 404, "PATH_UNKNOWN"),
    "a path that is not UTF-8": ("GET", "/v2/models/%FF", b"", {}, 404, "PATH_UNKNOWN"),
    "wrong verb": ("GET", INFER, b"", {}, 405, "METHOD_NOT_ALLOWED"),
    "unknown model": ("POST", "/v2/models/nobody/infer", b"{}", {}, 404, "ENDPOINT_NOT_FOUND"),
    "its metadata": ("GET", "/v2/models/nobody", b"", {}, 404, "ENDPOINT_NOT_FOUND"),
    "unknown version": (
        "POST",
        "/v2/models/linear/versions/9/infer",
        changed(),
        {},
        404,
        "VERSION_NOT_SERVED",
    ),
    "an encoding nobody knows": (
        "POST",
        INFER,
        b"x",
        {"Content-Encoding": "br"},
        501,
        "ENCODING_UNSUPPORTED",
    ),
    "a bomb": (
        "POST",
        INFER,
        gzip.compress(bytes(100 << 20), 1),
        GZIP,
        413,
        "MESSAGE_TOO_LARGE",
    ),
    "megabytes of JSON": (
        "POST",
        INFER,
        changed() + b" " * (9 << 20),
        {},
        400,
        "JSON_TOO_LARGE",
    ),
    "an index of no object": ("POST", "/v2/repository/index", b"[]", {}, 400, "BODY_INVALID"),
    "an index with a word for ready": (
        "POST",
        "/v2/repository/index",
        b'{"ready": "false"}',
        {},
        400,
        "BODY_INVALID",
    ),
    **{
        name: ("POST", INFER, body, headers, 400, reason)
        for name, (body, headers, reason) in BODIES.items()
    },
}
# Where the gateway answers by itself.
OTHER_REASONS = {"unknown path": "UNKNOWN_PATH"}


@pytest.mark.parametrize("name", ROWS)
def test_each_row_of_the_table(rest_door: Server, name: str) -> None:
    """Status and reason are as the table says, without internals; the next request is answered."""
    verb, path, body, headers, status, reason = ROWS[name]
    with rest_door.http() as client:
        answer = client.request(verb, path, content=body, headers=headers)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/json"
        assert "retry-after" not in answer.headers
        assert answer.json()["reason"] in (reason, OTHER_REASONS.get(name))
        assert 0 < len(answer.json()["error"]) <= 500
        assert "Traceback" not in answer.text
        right = client.post(INFER, json=rest())
        assert right.json()["outputs"][0]["data"] == [10.0] * 3
    if rest_door.pid:
        os.kill(rest_door.pid, 0)


def test_a_name_that_is_not_ascii_is_told_what_names_are(rest_door: Server) -> None:
    """Before any service is asked."""
    with rest_door.http() as client:
        answer = client.post("/v2/repository/models/%E9/load")
    assert (answer.status_code, answer.json()["reason"]) == (404, "PATH_UNKNOWN")
    assert "names in paths are ASCII" in answer.json()["error"]


def test_nested_data_are_taken(rest_door: Server) -> None:
    """In the tensor's shape, as the protocol allows."""
    with rest_door.http() as client:
        nested = client.post(INFER, json=rest(data=[[1, 2, 3, 4]]))
    assert nested.json()["outputs"][0]["data"] == [10.0] * 3


def test_what_json_cannot_carry_is_refused_and_comes_raw(rest_door: Server) -> None:
    """An infinite output names itself and the remedy, and the remedy works."""
    body = rest(data=[3e38] * 4)
    with rest_door.http() as client:
        refused = client.post(INFER, json=body)
        assert refused.json()["reason"] == "OUTPUT_NOT_FINITE"
        assert "'scores'" in refused.json()["error"]
        assert "binary_data" in refused.json()["error"]
        wanted = {"name": "scores", "parameters": {"binary_data": True}}
        answer = client.post(INFER, json=body | {"outputs": [wanted]})
    raw = answer.content[int(answer.headers[LENGTH]) :]
    assert np.isinf(np.frombuffer(raw, np.float32)).all()


def test_what_json_has_no_form_for_is_refused(rest_door: Server) -> None:
    """BF16 comes and goes raw; FP16 also as numbers."""
    bits = {"name": "x", "shape": [1, 2], "datatype": "BF16"}
    raw = np.array([0x3F80, 0xC000], np.uint16).tobytes()
    wanted = {"name": "y", "parameters": {"binary_data": True}}
    with rest_door.http() as client:

        def ask(header: Any, content: bytes = b"", model: str = "identity-bf16") -> Any:
            text = json.dumps(header).encode()
            return client.post(
                f"/v2/models/{model}/infer",
                content=text + content,
                headers={LENGTH: str(len(text))},
            )

        refused = ask({"inputs": [bits | {"data": [1, -2]}]})
        assert (refused.status_code, refused.json()["reason"]) == (400, "TENSOR_INVALID")
        sized = bits | {"parameters": {"binary_data_size": 4}}
        refused = ask({"inputs": [sized]}, raw)
        assert (refused.status_code, refused.json()["reason"]) == (400, "TENSOR_INVALID")
        assert "binary_data" in refused.json()["error"]
        answer = ask({"inputs": [sized], "outputs": [wanted]}, raw)
        assert answer.content.endswith(raw)
        half = bits | {"datatype": "FP16", "data": [0.5, -2]}
        answer = ask({"inputs": [half]}, model="identity-fp16")
        assert answer.json()["outputs"][0]["data"] == [0.5, -2]
