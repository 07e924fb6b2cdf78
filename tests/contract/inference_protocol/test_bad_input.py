"""Bad input is a table: what is sent, the status, the reason. Nothing else is disturbed."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lepton.oip.v2 import open_inference_pb2 as pb
from tests.contract.inference_protocol.doors import Server

Input = pb.ModelInferRequest.InferInputTensor
ROW = np.ones((1, 4), np.float32).tobytes()


def message(
    shape: tuple[int, ...] = (1, 4),
    raw: bytes = ROW,
    *,
    name: str = "image",
    datatype: str = "FP32",
    model: str = "linear",
    **fields: Any,
) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(
        model_name=model,
        inputs=[Input(name=name, datatype=datatype, shape=shape)],
        raw_input_contents=[raw],
        **fields,
    )


def typed(**contents: Any) -> pb.ModelInferRequest:
    tensor = Input(name="image", datatype="FP32", shape=[1, 4])
    tensor.contents.CopyFrom(pb.InferTensorContents(**contents))
    return pb.ModelInferRequest(model_name="linear", inputs=[tensor])


def words(raw: bytes, shape: tuple[int, ...] = (1, 1)) -> pb.ModelInferRequest:
    return message(shape, raw, name="x", datatype="BYTES", model="text")


def parameter(key: str, **value: Any) -> dict[str, Any]:
    return {"parameters": {key: pb.InferParameter(**value)}}


Output = pb.ModelInferRequest.InferRequestedOutputTensor
INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED

ROWS: dict[str, tuple[Any, grpc.StatusCode, str]] = {
    "no model": (message(model=""), NOT_FOUND, "ENDPOINT_NOT_FOUND"),
    "unknown model": (message(model="nobody"), NOT_FOUND, "ENDPOINT_NOT_FOUND"),
    "unknown version": (message(model_version="2"), NOT_FOUND, "VERSION_NOT_SERVED"),
    "unknown input": (message(name="img"), INVALID, "TENSOR_INVALID"),
    "no input": (pb.ModelInferRequest(model_name="linear"), INVALID, "TENSOR_INVALID"),
    "an input twice": (
        pb.ModelInferRequest(
            model_name="linear",
            inputs=[Input(name="image", datatype="FP32", shape=[1, 4])] * 2,
            raw_input_contents=[ROW] * 2,
        ),
        INVALID,
        "TENSOR_INVALID",
    ),
    "other datatype": (message(datatype="FP64"), INVALID, "TENSOR_INVALID"),
    "unknown datatype": (message(datatype="FP31"), INVALID, "TENSOR_INVALID"),
    "other rank": (message((4,)), INVALID, "TENSOR_INVALID"),
    "other dimension": (message((1, 5)), INVALID, "TENSOR_INVALID"),
    "negative dimension": (message((-1, 4)), INVALID, "TENSOR_INVALID"),
    "no rows": (message((0, 4), b""), INVALID, "TENSOR_INVALID"),
    "too many rows": (message((65, 4), ROW * 65), INVALID, "TENSOR_INVALID"),
    "a claim of exabytes": (message((2**60, 4)), INVALID, "TENSOR_INVALID"),
    "an overflow": (message((2**62, 4, 4)), INVALID, "TENSOR_INVALID"),
    "too few bytes": (message(raw=ROW[:-1]), INVALID, "TENSOR_INVALID"),
    "too many bytes": (message(raw=ROW + b"\0"), INVALID, "TENSOR_INVALID"),
    "no bytes": (message(raw=b""), INVALID, "TENSOR_INVALID"),
    "a raw content too many": (
        pb.ModelInferRequest(
            model_name="linear",
            inputs=[Input(name="image", datatype="FP32", shape=[1, 4])],
            raw_input_contents=[ROW, ROW],
        ),
        INVALID,
        "TENSOR_INVALID",
    ),
    "typed and raw": (
        pb.ModelInferRequest(
            model_name="linear", inputs=typed(fp32_contents=[1.0]).inputs, raw_input_contents=[ROW]
        ),
        INVALID,
        "TENSOR_INVALID",
    ),
    "too few elements": (typed(fp32_contents=[1.0] * 3), INVALID, "TENSOR_INVALID"),
    "elements of another type": (typed(int_contents=[1] * 4), INVALID, "TENSOR_INVALID"),
    "different rows": (
        pb.ModelInferRequest(
            model_name="two",
            inputs=[
                Input(name="a", datatype="FP32", shape=[1, 2]),
                Input(name="b", datatype="FP32", shape=[2, 2]),
                Input(name="n", datatype="INT64", shape=[1, 1]),
            ],
            raw_input_contents=[bytes(8), bytes(16), bytes(8)],
        ),
        INVALID,
        "TENSOR_INVALID",
    ),
    "unknown output": (message(outputs=[Output(name="logits")]), INVALID, "OUTPUT_UNKNOWN"),
    "a lying length": (words(struct.pack("<I", 9) + b"abc"), INVALID, "TENSOR_INVALID"),
    "a huge length": (words(struct.pack("<I", 2**32 - 1)), INVALID, "TENSOR_INVALID"),
    "half a length": (words(b"\1\0"), INVALID, "TENSOR_INVALID"),
    "an element too many": (words(struct.pack("<I", 0) * 2), INVALID, "TENSOR_INVALID"),
    "a claim of elements": (words(bytes(8), (2**39, 1)), INVALID, "TENSOR_INVALID"),
    "not UTF-8": (words(struct.pack("<I", 1) + b"\xff"), INVALID, "TENSOR_INVALID"),
    "a sequence of no name": (
        message(**parameter("sequence_id", double_param=1.5)),
        INVALID,
        "PARAMETER_INVALID",
    ),
    "a bad timeout": (
        message(**parameter("timeout", string_param="soon")),
        INVALID,
        "PARAMETER_INVALID",
    ),
    "a classification of an input": (
        message(**parameter("classification", int64_param=1)),
        UNIMPLEMENTED,
        "PARAMETER_UNSUPPORTED",
    ),
    "a classification of no classes": (
        message(outputs=[Output(name="scores", **parameter("classification", int64_param=-1))]),
        INVALID,
        "PARAMETER_INVALID",
    ),
    "a classification of text": (
        message(
            (1, 1),
            struct.pack("<I", 0),
            name="x",
            datatype="BYTES",
            model="text",
            outputs=[Output(name="y", **parameter("classification", int64_param=1))],
        ),
        INVALID,
        "PARAMETER_INVALID",
    ),
    "not protobuf": (b"\xff\xff\xff", INVALID, "MESSAGE_INVALID"),
}


@pytest.fixture
def infer(door: Server) -> Iterator[Any]:
    with door.channel() as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        def send(request: Any) -> pb.ModelInferResponse:
            body = request if isinstance(request, bytes) else request.SerializeToString()
            answer = pb.ModelInferResponse()
            answer.ParseFromString(call(body, timeout=20))
            return answer

        yield send


def test_every_row_of_the_table(infer: Any) -> None:
    """Status and reason are as the table says, and the next request is answered."""
    for name, (request, code, reason) in ROWS.items():
        with pytest.raises(grpc.RpcError) as caught:
            infer(request)
        error: Any = caught.value
        assert error.code() == code, (name, error.details())
        details = dict(error.trailing_metadata())["grpc-status-details-bin"]
        info = error_details_pb2.ErrorInfo()
        assert status_pb2.Status.FromString(details).details[0].Unpack(info)
        assert (info.reason, info.domain) == (reason, "lepton.dev"), name
        assert "Traceback" not in error.details()
    answer = infer(message())
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [4.0] * 3


def test_unknown_methods_are_unimplemented(door: Server) -> None:
    """Of the protocol's services and of others."""
    with door.channel() as channel:
        for method in ("/inference.GRPCInferenceService/Nothing", "/other.Service/Method"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(method)(b"", timeout=20)
            error: Any = caught.value
            assert error.code() == grpc.StatusCode.UNIMPLEMENTED


def test_our_own_service_name_and_health_are_served(door: Server) -> None:
    """The same methods under both names, and grpc.health.v1 beside them."""
    with door.channel() as channel:
        for service in ("inference", "lepton.oip.v2"):
            live = channel.unary_unary(f"/{service}.GRPCInferenceService/ServerLive")
            assert pb.ServerLiveResponse.FromString(live(b"", timeout=20)).live
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=20) == b"\x08\x01"


def test_an_expired_deadline_is_said(infer: Any) -> None:
    """A timeout parameter of a microsecond is over before the batch runs."""
    with pytest.raises(grpc.RpcError) as caught:
        infer(message(**parameter("timeout", int64_param=1)))
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_mangled_requests_never_break_the_server(infer: Any, data: st.DataObject) -> None:
    """Whatever bytes come, the answer is an answer or an INVALID_ARGUMENT kind of refusal."""
    body = bytearray(message().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = body[: data.draw(st.integers(0, len(body)))]
    try:
        infer(bytes(body))
    except grpc.RpcError as raised:
        error: Any = raised
        assert error.code() in (INVALID, NOT_FOUND, UNIMPLEMENTED), error.details()


def rest(**changes: Any) -> dict[str, Any]:
    tensor = {"name": "image", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    return {"inputs": [tensor | changes]}


BINARY = {"parameters": {"binary_data_size": 16}, "data": None}
REST_ROWS: dict[str, tuple[str, str, bytes, dict[str, str], int]] = {
    "unknown path": ("GET", "/v3", b"", {}, 404),
    "unknown path below": ("GET", "/v2/nothing", b"", {}, 404),
    "wrong verb": ("GET", "/v2/models/linear/infer", b"", {}, 405),
    "unknown model": ("POST", "/v2/models/nobody/infer", b"{}", {}, 404),
    "unknown model's metadata": ("GET", "/v2/models/nobody", b"", {}, 404),
    "unknown version": ("POST", "/v2/models/linear/versions/9/infer", b"{}", {}, 404),
    "not there yet": ("POST", "/v2/repository/models/linear/load", b"{}", {}, 501),
    **{
        name: ("POST", "/v2/models/linear/infer", body, headers, 400)
        for name, body, headers in (
            ("not JSON", b"{", {}),
            ("no object", b"[]", {}),
            ("NaN", json.dumps(rest(data=[float("nan")] * 4)).encode(), {}),
            ("no inputs", b"{}", {}),
            ("inputs no list", b'{"inputs": 3}', {}),
            ("no shape", json.dumps(rest(shape=None)).encode(), {}),
            ("fractions as shape", json.dumps(rest(shape=[1, 4.5])).encode(), {}),
            ("too few data", json.dumps(rest(data=[1])).encode(), {}),
            ("ragged data", json.dumps(rest(data=[[1, 2], [3]])).encode(), {}),
            ("text as data", json.dumps(rest(data=["a", "b", "c", "d"])).encode(), {}),
            ("huge shape", json.dumps(rest(shape=[2**50, 4])).encode(), {}),
            ("unknown datatype", json.dumps(rest(datatype="FLOAT")).encode(), {}),
            ("deep nesting", b"[" * 100_000, {}),
            ("a bad length", b"{}", {"Inference-Header-Content-Length": "99"}),
            ("a length that is none", b"{}", {"Inference-Header-Content-Length": "x"}),
            ("a length of many digits", b"{}", {"Inference-Header-Content-Length": "9" * 5000}),
            ("more than FP32 holds", json.dumps(rest(data=[1e300, 0, 0, 0])).encode(), {}),
            (
                "more than any float holds",
                json.dumps(rest()).replace("4]}", "1e999]}").encode(),
                {},
            ),
            ("an output beyond FP32", json.dumps(rest(data=[3e38] * 4)).encode(), {}),
            (
                "less binary than claimed",
                json.dumps(rest(parameters={"binary_data_size": 16})).encode(),
                {},
            ),
            ("broken gzip", b"not gzip", {"Content-Encoding": "gzip"}),
        )
    },
    "an encoding nobody knows": (
        "POST",
        "/v2/models/linear/infer",
        b"x",
        {"Content-Encoding": "br"},
        501,
    ),
}


def test_every_row_of_the_rest_table(rest_door: Server) -> None:
    """The status as the table says, and {"error": ...} without internals."""
    with rest_door.http() as client:
        for name, (verb, path, body, headers, status) in REST_ROWS.items():
            answer = client.request(verb, path, content=body, headers=headers)
            assert answer.status_code == status, (name, answer.text)
            assert answer.json()["error"], name
            assert "Traceback" not in answer.text
        assert client.post("/v2/models/linear/infer", json=rest()).status_code == 200
        nested = client.post("/v2/models/linear/infer", json=rest(data=[[1, 2, 3, 4]]))
        assert nested.json()["outputs"][0]["data"] == [10.0] * 3


def test_what_json_cannot_carry_is_refused_and_comes_raw(rest_door: Server) -> None:
    """An infinite output names itself and the remedy, and the remedy works."""
    body = rest(data=[3e38] * 4)
    with rest_door.http() as client:
        refused = client.post("/v2/models/linear/infer", json=body)
        assert refused.json()["reason"] == "OUTPUT_NOT_FINITE"
        assert "'scores'" in refused.json()["error"]
        assert "binary_data" in refused.json()["error"]
        wanted = {"name": "scores", "parameters": {"binary_data": True}}
        answer = client.post("/v2/models/linear/infer", json=body | {"outputs": [wanted]})
    raw = answer.content[int(answer.headers["Inference-Header-Content-Length"]) :]
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
                headers={"Inference-Header-Content-Length": str(len(text))},
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


def test_every_datatype_comes_back(infer: Any) -> None:
    """What an identity model gives is what it got, raw."""
    for datatype, dtype in (
        ("BOOL", np.bool_),
        ("UINT8", np.uint8),
        ("UINT16", np.uint16),
        ("UINT32", np.uint32),
        ("UINT64", np.uint64),
        ("INT8", np.int8),
        ("INT16", np.int16),
        ("INT32", np.int32),
        ("INT64", np.int64),
        ("FP16", np.float16),
        ("FP32", np.float32),
        ("FP64", np.float64),
        ("BF16", np.uint16),
    ):
        raw = np.array([[0, 1], [1, 0], [1, 1]], dtype).tobytes()
        for _ in range(2):  # the second time the short way
            answer = infer(
                message(
                    (3, 2), raw, name="x", datatype=datatype, model=f"identity-{datatype.lower()}"
                )
            )
            assert answer.raw_output_contents[0] == raw, datatype
            assert (answer.outputs[0].datatype, list(answer.outputs[0].shape)) == (datatype, [3, 2])


def test_free_dimensions_and_fixed_models(infer: Any) -> None:
    """Rows of different lengths, and a model that does not batch."""
    for length in (1, 5, 2):
        raw = np.arange(2 * length, dtype=np.float32).tobytes()
        answer = infer(message((2, length), raw, name="x", model="sequence"))
        assert (list(answer.outputs[0].shape), answer.raw_output_contents[0]) == ([2, length], raw)
    raw = np.arange(4, dtype=np.float32).tobytes()
    for model in ("fixed", "across"):
        answer = infer(message((2, 2), raw, name="x", model=model))
        assert list(answer.outputs[0].shape) == [2, 2]
