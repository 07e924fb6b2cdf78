"""Whatever bytes come, a decoder gives what they say or refuses them, and nothing else."""

from __future__ import annotations

import gzip
import json
import math
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference import framing, tensors
from lepton_inference.bounds import MAX_PARSED_BYTES, ContentsTooLarge
from lepton_inference.framing import Frames, inflate, message_of, timeout_seconds
from lepton_inference.signature import InferenceRequest, InputTensor, Signature
from lepton_inference.tensors import DATATYPES, TensorInvalid, TensorSpec
from lepton_inference.wire import frame, parse_request, request_of, varint
from lepton_mesh.errors import LeptonError
from tests.inference_models import NUMBERS
from tests.inference_plane import MODEL_INFER, Answer, Plane
from tests.inference_requests import Input, mutated, numbers, raw_texts, request, texts, valid

REFUSALS = {3, 5, 8, 12}
"""gRPC's numbers for what a caller did wrong or may not have: INVALID_ARGUMENT, NOT_FOUND,
RESOURCE_EXHAUSTED, UNIMPLEMENTED."""


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Plane:
    return Plane(tmp_path_factory.mktemp("models"))


def split(data: st.DataObject, body: bytes) -> list[bytes]:
    """The body in any pieces."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=4)))
    return [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]


def is_answer_or_refusal(answer: Answer) -> bool:
    return answer.status == 200 and answer.grpc_status in {0, *REFUSALS}


# --- gRPC --------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=60))
def test_any_bytes_are_answered_or_refused(plane: Plane, body: bytes) -> None:
    """As a message, and as a body that is meant to be a frame."""
    assert is_answer_or_refusal(plane.grpc([frame(body)]))
    assert is_answer_or_refusal(plane.grpc([body]))


@settings(max_examples=300, deadline=None)
@given(data=st.data(), message=valid())
def test_mutated_requests_are_answered_or_refused(
    plane: Plane, data: st.DataObject, message: pb.ModelInferRequest
) -> None:
    """Mangled inside of a right frame, or frame and all; whether or not one like it was known."""
    serialized = message.SerializeToString()
    assert plane.grpc([frame(serialized)]).grpc_status == 0
    assert is_answer_or_refusal(plane.grpc([frame(data.draw(mutated(serialized)))]))
    assert is_answer_or_refusal(plane.grpc([data.draw(mutated(frame(serialized)))]))


@settings(max_examples=200, deadline=None)
@given(message=valid())
def test_the_short_way_answers_as_the_long_way(plane: Plane, message: pb.ModelInferRequest) -> None:
    """Byte for byte, for any valid request."""
    body = frame(message.SerializeToString())
    plane.forget()
    long = plane.grpc([body])
    assert long.grpc_status == 0, long.headers
    assert plane.grpc([body]) == long  # the short way, if there is one for it
    assert plane.grpc([body]) == long


@settings(max_examples=100, deadline=None)
@given(data=st.data(), messages=st.lists(valid(), min_size=2, max_size=4))
def test_what_was_learned_of_some_requests_changes_no_answer_to_others(
    plane: Plane, data: st.DataObject, messages: list[pb.ModelInferRequest]
) -> None:
    """Nor do bodies with the start of one request and the tensor of another."""
    # Two that differ in nothing but their rows are what a lie would best confuse.
    messages += [
        request("linear", "image", "FP32", [rows, 4], data.draw(numbers("FP32", rows * 4)))
        for rows in (1, 2)
    ]
    bodies = [frame(message.SerializeToString()) for message in messages]
    for _ in range(3):
        one, other = data.draw(st.permutations(messages))[:2]
        body = frame(one.SerializeToString())
        start = len(body) - len(one.raw_input_contents[0])
        bodies.append(body[:start] + other.raw_input_contents[0])
    expected = []
    for body in bodies:
        plane.forget()
        expected.append(plane.grpc([body]))
    plane.forget()
    for _ in range(2):
        assert [plane.grpc([body]) for body in bodies] == expected
    together = plane.run(plane.ask_at_once([[body] for body in bodies]))
    assert together == expected


@settings(max_examples=100, deadline=None)
@given(data=st.data(), message=valid())
def test_the_pieces_in_which_a_body_comes_do_not_matter(
    plane: Plane, data: st.DataObject, message: pb.ModelInferRequest
) -> None:
    """Nor whether it comes compressed."""
    body = frame(message.SerializeToString())
    whole = plane.grpc([body])
    assert plane.grpc(split(data, body)) == whole
    compressed = gzip.compress(body[5:])
    body = b"\1" + len(compressed).to_bytes(4, "big") + compressed
    assert plane.grpc(split(data, body), {"grpc-encoding": b"gzip"}) == whole
    path = MODEL_INFER.replace("ModelInfer", "ModelStreamInfer")
    streamed = plane.grpc(
        [frame(message.SerializeToString()) + body], {"grpc-encoding": b"gzip"}, path
    )
    assert streamed.grpc_status == 0
    one = streamed.body[: len(streamed.body) // 2]
    assert one + one == streamed.body
    answer = pb.ModelStreamInferResponse.FromString(one[5:]).infer_response
    assert (
        answer.raw_output_contents[0]
        == pb.ModelInferResponse.FromString(whole.body[5:]).raw_output_contents[0]
    )


@given(
    data=st.data(),
    messages=st.lists(st.binary(max_size=20), max_size=5),
    rest=st.sampled_from([b"", b"\0", b"\0\0\0\0\2x"]),
)
def test_frames_come_out_of_any_pieces(
    data: st.DataObject, messages: list[bytes], rest: bytes
) -> None:
    """Whole ones, in their order; what is begun waits."""
    body = b"".join(map(frame, messages)) + rest
    frames = Frames(100)
    found = [each for piece in split(data, body) for each in frames.add(piece)]
    assert (found, frames.waiting) == ([(0, message) for message in messages], len(rest))


@given(body=st.binary(max_size=30), encoding=st.sampled_from([b"", b"gzip", b"deflate", b"br"]))
def test_any_frames_are_taken_or_refused(body: bytes, encoding: bytes) -> None:
    """Lengths, flags and compression may all lie."""
    for take in (
        lambda: framing.unframe(body, encoding, 100),
        lambda: [message_of(*each, encoding, 100) for each in Frames(100).add(body)],
    ):
        try:
            take()
        except LeptonError as error:
            assert error.wire.grpc_code in REFUSALS


def test_a_body_of_one_byte_is_not_called_bytes() -> None:
    with pytest.raises(framing.MessageInvalid, match="body of 1 byte is not one gRPC message"):
        framing.unframe(b"x", b"", 100)


@given(content=st.binary(max_size=200), encoding=st.sampled_from(["gzip", "deflate"]))
def test_what_was_compressed_comes_out(content: bytes, encoding: str) -> None:
    """To the byte, up to the limit; and is refused when something follows it or is missing."""
    compressed = gzip.compress(content) if encoding == "gzip" else zlib.compress(content)
    assert inflate(compressed, encoding, len(content)) == content
    for wrong, told in ((compressed + b"x", "more: 1 byte$"), (compressed[:-1], "too early")):
        with pytest.raises(framing.MessageInvalid, match=told):
            inflate(wrong, encoding, len(content))
    if content:
        with pytest.raises(framing.MessageTooLarge):
            inflate(compressed, encoding, len(content) - 1)


@given(header=st.binary(max_size=12))
def test_any_timeout_header_is_a_time_or_none(header: bytes) -> None:
    """gRPC says what a malformed one is worth: nothing."""
    seconds = timeout_seconds(header)
    assert seconds is None or seconds >= 0


# --- Tensors -----------------------------------------------------------------------------

SIZES = st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 5)


@settings(max_examples=200)
@given(
    shape=st.lists(SIZES, max_size=5) | st.lists(SIZES, min_size=60, max_size=70),
    raw=st.binary(max_size=80),
    name=st.sampled_from([*NUMBERS, "BYTES"]),
    spec=st.sampled_from([(-1, 4), (-1, -1), (2, 2), (-1,), ()]),
)
def test_what_the_signature_lets_through_fits(
    shape: list[int], raw: bytes, name: str, spec: tuple[int, ...]
) -> None:
    """Whatever shape is claimed: what is taken has that many bytes, and the model's shape."""
    datatype = DATATYPES[name]
    batched = bool(spec) and spec[0] == -1
    tensor = TensorSpec("x", datatype, spec)
    signature = Signature((tensor,), (tensor,), batched=batched)
    given_tensor = InputTensor("x", name, tuple(shape), raw)
    try:
        checked = signature.check(InferenceRequest("m", "", [given_tensor]), 64)
    except TensorInvalid:
        return
    (column,) = checked.columns
    assert all(want in (-1, have) for want, have in zip(spec, shape, strict=True))
    assert checked.rows == (shape[0] if batched else 1)
    if isinstance(column, np.ndarray):
        assert column.shape == tuple(shape)
    else:
        assert len(column) == math.prod(shape) * datatype.itemsize


@given(raw=st.binary(max_size=40), count=st.integers(0, 5) | st.integers(0, 2**64))
def test_any_raw_bytes_tensor_is_read_or_refused(raw: bytes, count: int) -> None:
    """What is read has that many elements, and is written as it came."""
    try:
        elements = tensors.decode_bytes("x", raw, count)
    except TensorInvalid:
        return
    assert len(elements) == count
    assert tensors.encode_bytes(elements) == raw


@pytest.mark.parametrize("count", [2**29, 2**31, 2**39])
def test_a_claim_of_gigabytes_takes_no_memory(count: int) -> None:
    """As elements, as the length of one, and as a shape."""
    tracemalloc.start()
    try:
        for refuse in (
            lambda: tensors.decode_bytes("x", bytes(64), count),
            lambda: tensors.decode_bytes("x", b"\xff\xff\xff\x7f" + bytes(60), 1),
            lambda: tensors.check_raw("x", DATATYPES["FP32"], (count, 4), bytes(64)),
            lambda: request_of(
                pb.ModelInferRequest(inputs=[Input(name="x", datatype="INT8", shape=[count])])
            ),
        ):
            with pytest.raises(TensorInvalid):
                refuse()
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_what_is_not_raw_is_bounded() -> None:
    """Small pieces, that would become an object each, are refused before they are parsed."""
    outputs = b"\x32\x00" * (MAX_PARSED_BYTES // 2 + 1)
    numbers = Input(name="x", datatype="FP32", shape=[3 << 20])
    numbers.contents.fp32_contents.extend([1.0] * (3 << 20))
    raw = b"\x3a" + varint(4 << 20) + bytes(4 << 20)
    for body in (outputs, raw + outputs, b"\x3a\x00" * MAX_PARSED_BYTES):
        with pytest.raises(ContentsTooLarge, match="raw_input_contents"):
            parse_request(body)
    with pytest.raises(ContentsTooLarge):
        parse_request(pb.ModelInferRequest(inputs=[numbers]).SerializeToString())
    many = pb.ModelInferRequest(inputs=[Input()] * 1025).SerializeToString()
    with pytest.raises(ContentsTooLarge, match="1025 inputs"):
        parse_request(many)
    assert len(parse_request(raw * 3).raw_input_contents) == 3


# --- There and back ----------------------------------------------------------------------


def scalars(datatype: str, raw: bytes) -> list[Any]:
    values: list[Any] = np.frombuffer(raw, DATATYPES[datatype].dtype).tolist()
    return values


@pytest.mark.parametrize("datatype", NUMBERS)
@settings(max_examples=25, deadline=None)
@given(data=st.data(), rows=st.integers(1, 3))
def test_numbers_come_back_as_they_went(
    plane: Plane, data: st.DataObject, rows: int, datatype: str
) -> None:
    """Raw and typed over gRPC, binary and JSON over REST: to the bit."""
    raw = data.draw(numbers(datatype, rows * 2))
    model, shape = f"identity-{datatype.lower()}", [rows, 2]
    came = plane.grpc([frame(request(model, "x", datatype, shape, raw).SerializeToString())])
    assert pb.ModelInferResponse.FromString(came.body[5:]).raw_output_contents[0] == raw
    tensor = {"name": "x", "datatype": datatype, "shape": shape}
    binary = {**tensor, "parameters": {"binary_data_size": len(raw)}}
    header = json.dumps({"inputs": [binary], "parameters": {"binary_data_output": True}}).encode()
    path = f"/v2/models/{model}/infer"
    length = "inference-header-content-length"
    rest = plane.ask("POST", path, {length: str(len(header)).encode()}, [header + raw])
    assert rest.body[int(rest.headers[length]) :] == raw
    values = scalars(datatype, raw)
    if DATATYPES[datatype].dtype.kind == "f" and not np.isfinite(values).all():
        return  # JSON has none of those, and typed contents may quieten a NaN
    body = json.dumps({"inputs": [{**tensor, "data": values}]}).encode()
    answer = json.loads(plane.ask("POST", path, {}, [body]).body)
    assert np.array(answer["outputs"][0]["data"], DATATYPES[datatype].dtype).tobytes() == raw
    if not DATATYPES[datatype].contents:
        return
    typed = request(model, "x", datatype, shape, b"")
    del typed.raw_input_contents[:]
    getattr(typed.inputs[0].contents, DATATYPES[datatype].contents).extend(values)
    came = plane.grpc([frame(typed.SerializeToString())])
    assert pb.ModelInferResponse.FromString(came.body[5:]).raw_output_contents[0] == raw


@settings(max_examples=50, deadline=None)
@given(data=st.data(), rows=st.integers(1, 3), length=st.integers(0, 3))
def test_text_comes_back_as_it_went(
    plane: Plane, data: st.DataObject, rows: int, length: int
) -> None:
    """Every character, the null one too; over gRPC raw, over REST as JSON."""
    values = data.draw(texts(rows * length))
    raw = raw_texts(values)
    message = request("words", "x", "BYTES", [rows, length], raw)
    came = plane.grpc([frame(message.SerializeToString())])
    assert pb.ModelInferResponse.FromString(came.body[5:]).raw_output_contents[0] == raw
    tensor = {"name": "x", "datatype": "BYTES", "shape": [rows, length], "data": values}
    body = json.dumps({"inputs": [tensor]}, ensure_ascii=data.draw(st.booleans())).encode()
    answer = plane.ask("POST", "/v2/models/words/infer", {}, [body])
    assert json.loads(answer.body)["outputs"][0]["data"] == values
