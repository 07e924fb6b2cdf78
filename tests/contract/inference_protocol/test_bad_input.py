"""Bad input is a table: what is sent, the status, the reason. Nothing else is disturbed."""

from __future__ import annotations

import os
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


def sequence(shape: tuple[int, ...], raw: bytes) -> pb.ModelInferRequest:
    """For the model whose rows have any length."""
    return message(shape, raw, name="x", model="sequence")


def typed(shape: tuple[int, ...] = (1, 4), **contents: Any) -> pb.ModelInferRequest:
    tensor = Input(name="image", datatype="FP32", shape=shape)
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
    "an overflow of 64 bits": (sequence((2**32, 2**32), bytes(8)), INVALID, "TENSOR_INVALID"),
    "a product of zero and more than 64 bits": (
        sequence((0, 2**63 - 1), b""),
        INVALID,
        "TENSOR_INVALID",
    ),
    "a claim of 2 GiB": (sequence((1, 2**29), bytes(8)), INVALID, "TENSOR_INVALID"),
    "a claim of 2 GiB, typed": (
        typed(shape=(1, 2**29), fp32_contents=[1]),
        INVALID,
        "TENSOR_INVALID",
    ),
    "thousands of dimensions": (
        typed(shape=(2**62,) * 5000, fp32_contents=[1.0]),
        INVALID,
        "TENSOR_INVALID",
    ),
    "the shape of a scalar": (message((), ROW[:4]), INVALID, "TENSOR_INVALID"),
    "the minimum of 64 bits": (message((-(2**63), 4)), INVALID, "TENSOR_INVALID"),
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
    "small integers that do not fit": (
        pb.ModelInferRequest(
            model_name="identity-int8",
            inputs=[
                Input(
                    name="x",
                    datatype="INT8",
                    shape=[1, 2],
                    contents=pb.InferTensorContents(int_contents=[128, 0]),
                )
            ],
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
    "an output twice": (
        message(outputs=[Output(name="scores")] * 2),
        INVALID,
        "OUTPUT_REPEATED",
    ),
    "thousands of outputs": (
        message(outputs=[Output(name="scores")] * 5000),
        INVALID,
        "CONTENTS_TOO_LARGE",
    ),
    "megabytes of typed contents": (
        typed(shape=(1, 3 << 20), fp32_contents=[1.0] * (3 << 20)),
        INVALID,
        "CONTENTS_TOO_LARGE",
    ),
    "millions of texts": (words(bytes(8 << 20), (2 << 20, 1)), INVALID, "TENSOR_INVALID"),
    "a length of 2 GiB": (words(struct.pack("<I", 2**31 - 1)), INVALID, "TENSOR_INVALID"),
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
    "a negative timeout": (
        message(**parameter("timeout", int64_param=-1)),
        INVALID,
        "PARAMETER_INVALID",
    ),
    "a negative priority": (
        message(**parameter("priority", int64_param=-1)),
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
    "half a message": (message().SerializeToString()[:-3], INVALID, "MESSAGE_INVALID"),
    "a name that is not UTF-8": (b"\x0a\x01\xff", INVALID, "MESSAGE_INVALID"),
    "a length of gigabytes": (b"\x3a\xff\xff\xff\xff\x07", INVALID, "MESSAGE_INVALID"),
    "groups in groups": (b"\x43" * 10_000, INVALID, "MESSAGE_INVALID"),
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


def refused(infer: Any, request: Any) -> tuple[grpc.StatusCode, str, str]:
    """The status, the reason and the message."""
    with pytest.raises(grpc.RpcError) as caught:
        infer(request)
    error: Any = caught.value
    details = dict(error.trailing_metadata()).get("grpc-status-details-bin", b"")
    info = error_details_pb2.ErrorInfo()
    for detail in status_pb2.Status.FromString(details).details[:1]:
        assert detail.Unpack(info)
        assert info.domain == "lepton.dev"
    return error.code(), info.reason, error.details()


@pytest.mark.parametrize("name", ROWS)
def test_each_row_of_the_table(infer: Any, door: Server, name: str) -> None:
    """Status and reason are as the table says, and the next request is answered."""
    request, code, reason = ROWS[name]
    found, why, says = refused(infer, request)
    assert (found, why) == (code, reason), says
    assert "Traceback" not in says
    assert len(says) <= 500
    answer = infer(message())
    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [4.0] * 3
    if door.pid:
        os.kill(door.pid, 0)


@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip])
def test_a_message_beyond_the_limit_is_refused(
    door: Server, infer: Any, compression: grpc.Compression | None
) -> None:
    """Whether it comes as it is or is a bomb that grows when it is unpacked."""
    large = message((64, 1 << 18), bytes(65 << 20), name="x", model="sequence").SerializeToString()
    with door.channel() as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(large, timeout=60, compression=compression)
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error.details()
    assert infer(message()).model_name == "linear"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\0",
        b"\0\0\0\0\x10abc",
        b"\0\0\0\0\x01abc",
        b"\2\0\0\0\0",
        b"\1\0\0\0\3abc",
        b"\0\xff\xff\xff\xff",
        b"\0\0\0\0\0" * 2,
    ],
)
def test_broken_frames_are_refused(rest_door: Server, body: bytes) -> None:
    """Cut short, too long, of an unknown kind, more than one: no answer, and the next has one."""
    path = "/inference.GRPCInferenceService/ModelInfer"
    headers = {"content-type": "application/grpc", "te": "trailers"}
    with rest_door.http() as client:
        answer = client.post(path, content=body, headers=headers)
        assert (answer.status_code, answer.content) == (200, b"")
        assert client.get("/v2/models/linear/ready").status_code == 200


def test_too_many_rows_are_told_the_remedy(infer: Any) -> None:
    """The setting that allows more, and its option."""
    says = refused(infer, ROWS["too many rows"][0])[2]
    assert "takes 1 to 64" in says
    assert "batching.max_batch_rows (--max-batch-rows)" in says


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
    code, reason, _ = refused(infer, message(**parameter("timeout", int64_param=1)))
    assert (code, reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "REQUEST_EXPIRED")


def test_what_is_no_number_is_one_in_raw_tensors(infer: Any) -> None:
    """NaN and infinities are refused where JSON would have to carry them, and nowhere else."""
    raw = np.array([[np.nan, np.inf, -np.inf, 0]], np.float32).tobytes()
    assert np.isnan(np.frombuffer(infer(message(raw=raw)).raw_output_contents[0], np.float32)).all()


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
