"""What is fuzzed: each target takes bytes and fails on what no client may see.

No client may see a bug of ours: an answer without a status, INTERNAL, or HTTP 500. Hangs and
memory without end are for the fuzzer to notice.
"""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Iterator

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference import tensors
from lepton_inference.open_inference import SERVICES
from lepton_inference.wire import frame
from lepton_mesh.errors import LeptonError
from tests.inference_plane import MODELS, Answer, Plane

Target = Callable[[Plane, bytes], None]
STREAM = f"/{SERVICES[0]}/ModelStreamInfer"
METHODS = tuple(
    f"/{SERVICES[0]}/{method.name}"
    for method in pb.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
)
ENCODINGS = (b"", b"gzip", b"deflate", b"br")
NAMES = tuple(MODELS)
LENGTH = "inference-header-content-length"
BUGS = {2, 13, 15}  # UNKNOWN, INTERNAL, DATA_LOSS
EXPIRED, EXPIRED_HTTP = 4, 504


def message(plane: Plane, data: bytes) -> None:
    """A ModelInferRequest; twice, for the second time may go the short way."""
    first, second = plane.grpc([frame(data)]), plane.grpc([frame(data)])
    _check(first)
    _check(second)
    # A timeout of microseconds may pass the one time and not the other.
    if EXPIRED not in (first.grpc_status, second.grpc_status):
        assert second == first, (first, second)


def body(plane: Plane, data: bytes) -> None:
    """The body of ModelInfer, frame included, in two pieces, perhaps compressed."""
    encoding, cut = ENCODINGS[data[0] % len(ENCODINGS)], data[1]
    content = data[2:]
    headers = {"grpc-encoding": encoding} if encoding else {}
    _check(plane.grpc([content[:cut], content[cut:]], headers))


def stream(plane: Plane, data: bytes) -> None:
    """The body of ModelStreamInfer, in two pieces."""
    cut, content = data[0], data[1:]
    _check(plane.grpc([content[:cut], content[cut:]], path=STREAM))


def method(plane: Plane, data: bytes) -> None:
    """A request of any method."""
    _check(plane.grpc([frame(data[1:])], path=METHODS[data[0] % len(METHODS)]))


def rest(plane: Plane, data: bytes) -> None:
    """An inference over REST: a model, where the JSON ends if anywhere, an encoding, the body.

    Twice, as above.
    """
    model, end, encoding = NAMES[data[0] % len(NAMES)], data[1], ENCODINGS[data[2] % 3]
    headers = {LENGTH: str(end * 4).encode()} if end else {}
    if encoding:
        headers["content-encoding"] = encoding
    asked = ("POST", f"/v2/models/{model}/infer", headers, [data[3:]])
    first, second = plane.ask(*asked), plane.ask(*asked)
    _check_rest(first)
    _check_rest(second)
    if EXPIRED_HTTP not in (first.status, second.status):
        assert second == first, (first, second)


def path(plane: Plane, data: bytes) -> None:
    """Any path below /v2, with a body."""
    where, _, content = data[1:].partition(b"\n")
    verb = ("GET", "POST")[data[0] % 2]
    _check_rest(plane.ask(verb, "/v2/" + where.decode("latin-1"), {}, [content]))


def text(_: Plane, data: bytes) -> None:
    """A raw BYTES tensor."""
    try:
        elements = tensors.decode_bytes("x", data[1:], data[0])
    except LeptonError:
        return
    assert tensors.encode_bytes(elements) == data[1:]


TARGETS: tuple[tuple[Target, int], ...] = (
    (message, 0),
    (body, 2),
    (stream, 1),
    (method, 1),
    (rest, 3),
    (path, 1),
    (text, 1),
)
"""Each with the bytes that it takes off the front."""


def run(plane: Plane, data: bytes) -> None:
    """Hands the data to the target that its first byte names."""
    if not data:
        return
    target, taken = TARGETS[data[0] % len(TARGETS)]
    if len(data) > taken:
        target(plane, data[1:])


def _check(answer: Answer) -> None:
    assert answer.status == 200, answer
    assert answer.grpc_status >= 0, answer
    assert answer.grpc_status not in BUGS, answer


def _check_rest(answer: Answer) -> None:
    assert 200 <= answer.status < 500 or answer.status in (501, 503, 504), answer


def seeds() -> Iterator[bytes]:
    """Right requests for the targets, from which the fuzzer starts."""
    request = pb.ModelInferRequest(
        model_name="linear",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="image", datatype="FP32", shape=[1, 4])],
        raw_input_contents=[bytes(16)],
    )
    raw = request.SerializeToString()
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend([1, 2, 3, 4])
    request.outputs.add(name="scores").parameters["classification"].int64_param = 2
    request.parameters["sequence_id"].int64_param = 7
    request.parameters["timeout"].uint64_param = 60_000_000
    request.id = "r1"
    typed = request.SerializeToString()
    word = struct.pack("<I", 2) + b"ab"
    words = pb.ModelInferRequest(
        model_name="text",
        inputs=[pb.ModelInferRequest.InferInputTensor(name="x", datatype="BYTES", shape=[1, 1])],
        raw_input_contents=[word],
    ).SerializeToString()
    for each in (raw, typed, words):
        compressed = gzip.compress(each)
        yield bytes([0]) + each
        yield bytes([1, 0, 9]) + frame(each)
        yield bytes([1, 1, 9, 1]) + len(compressed).to_bytes(4, "big") + compressed
        yield bytes([2, 9]) + frame(each) * 2
    for number, name in enumerate(METHODS):
        yield bytes([3, number]) + (b"\x0a\x06linear" if "Model" in name else b"")
    tensor = {"name": "image", "shape": [1, 4], "datatype": "FP32"}
    linear = NAMES.index("linear")
    yield bytes([4, linear, 0, 0]) + json.dumps({"inputs": [{**tensor, "data": [1] * 4}]}).encode()
    header = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": 16}}]})
    header += " " * (-len(header) % 4)
    yield bytes([4, linear, len(header) // 4, 0]) + header.encode() + bytes(16)
    text_json = {"name": "x", "shape": [1, 1], "datatype": "BYTES", "data": ["é"]}
    yield bytes([4, NAMES.index("text"), 0, 2]) + zlib.compress(
        json.dumps({"inputs": [text_json], "outputs": [{"name": "y"}], "id": "r1"}).encode()
    )
    for verb, where in (
        (0, "models/linear/versions/1/config"),
        (0, "models/stats"),
        (1, "repository/index\n{}"),
        (1, 'repository/models/linear/load\n{"parameters": {"config": "{}"}}'),
        (1, 'models/linear/generate\n{"image": [1, 2, 3, 4], "id": "r1"}'),
        (1, 'models/text/generate_stream\n{"x": "é", "parameters": {"priority": 0}}'),
        (1, 'logging\n{"log_verbose_level": 1}'),
        (1, 'trace/setting\n{"trace_rate": "1"}'),
        (1, 'systemsharedmemory/region/r/register\n{"key": "/x", "offset": 0, "byte_size": 1}'),
    ):
        yield bytes([5, verb]) + where.encode()
    yield bytes([6, 1]) + word
