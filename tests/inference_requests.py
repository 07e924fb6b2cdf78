"""Inference requests for hypothesis: right ones for the models of a Plane, and mangled ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.tensors import DATATYPES
from tests.inference_models import NUMBERS

Input = pb.ModelInferRequest.InferInputTensor


def request(
    model: str, name: str, datatype: str, shape: Sequence[int], raw: bytes, **fields: Any
) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(
        model_name=model,
        inputs=[Input(name=name, datatype=datatype, shape=shape)],
        raw_input_contents=[raw],
        **fields,
    )


@st.composite
def numbers(draw: st.DrawFn, datatype: str, count: int) -> bytes:
    """That many elements of a datatype, raw; of floats any, NaN and infinities among them."""
    dtype = DATATYPES[datatype].dtype
    if datatype == "BOOL":
        return bytes(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    return draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))


def texts(count: int) -> st.SearchStrategy[list[str]]:
    return st.lists(st.text(max_size=6), min_size=count, max_size=count)


def raw_texts(values: Sequence[str]) -> bytes:
    encoded = [value.encode() for value in values]
    return b"".join(struct.pack("<I", len(value)) + value for value in encoded)


@st.composite
def valid(draw: st.DrawFn) -> pb.ModelInferRequest:
    """A request that a model takes."""
    rows = draw(st.integers(1, 3))
    fields: dict[str, Any] = {"id": draw(st.sampled_from(["", "", "", "r1", "é"]))}
    if draw(st.integers(0, 3)) == 0:
        fields["parameters"] = {"timeout": pb.InferParameter(int64_param=60_000_000)}
    kind = draw(st.sampled_from(["linear", "ragged", "text", "words", "identity", "fixed"]))
    if kind == "linear":
        if draw(st.booleans()):
            fields["outputs"] = [pb.ModelInferRequest.InferRequestedOutputTensor(name="scores")]
        raw = draw(numbers("FP32", rows * 4))
        return request("linear", "image", "FP32", [rows, 4], raw, **fields)
    if kind == "ragged":
        length = draw(st.integers(0, 3))
        raw = draw(numbers("FP32", rows * length))
        return request("ragged", "x", "FP32", [rows, length], raw, **fields)
    if kind == "fixed":
        return request("fixed", "x", "FP32", [2, 2], draw(numbers("FP32", 4)), **fields)
    if kind == "identity":
        datatype = draw(st.sampled_from(sorted(NUMBERS)))
        raw = draw(numbers(datatype, rows * 2))
        return request(f"identity-{datatype.lower()}", "x", datatype, [rows, 2], raw, **fields)
    length = 1 if kind == "text" else draw(st.integers(0, 3))
    raw = raw_texts(draw(texts(rows * length)))
    return request(kind, "x", "BYTES", [rows, length], raw, **fields)


@st.composite
def mutated(draw: st.DrawFn, original: bytes) -> bytes:
    """Those bytes with a few changed, lost, doubled or put in."""
    body = bytearray(original)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(body)))
        match draw(st.integers(0, 3)):
            case 0 if at < len(body):
                body[at] = draw(st.integers(0, 255))
            case 1:
                del body[at : at + draw(st.integers(1, 8))]
            case 2:
                body[at:at] = body[at : at + draw(st.integers(1, 16))]
            case _:
                body[at:at] = draw(st.binary(min_size=1, max_size=4))
    return bytes(body)


# --- REST --------------------------------------------------------------------------------

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.just(10**4000)
    | st.floats()
    | st.text(st.characters(codec=None), max_size=4),  # halves of surrogate pairs too
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
KEYS = ("name", "datatype", "shape", "data", "parameters")
PARAMETERS = ("binary_data_size", "timeout", "priority", "routing_key", "binary_data_output", "x")


@st.composite
def rest_requests(draw: st.DrawFn) -> tuple[str, bytes, dict[str, bytes]]:
    """A path, a body and headers, of which some part is not what it should be."""
    model, datatype = draw(st.sampled_from([("linear", "FP32"), ("text", "BYTES")]))
    tensor: dict[str, Any] = {
        "name": "image" if model == "linear" else "x",
        "datatype": datatype,
        "shape": [1, 4] if model == "linear" else [1, 1],
        "data": [1, 2, 3, 4] if model == "linear" else ["a"],
    }
    body: dict[str, Any] = {"inputs": [tensor]}
    for _ in range(draw(st.integers(0, 2))):
        holder = draw(st.sampled_from([body, tensor]))
        kind = draw(st.integers(0, 3))
        if kind == 0:
            holder["parameters"] = {draw(st.sampled_from(PARAMETERS)): draw(JSON)}
        elif kind == 1:
            body["outputs"] = [{"name": draw(st.sampled_from(["scores", "y"]) | JSON)}]
        else:
            holder[draw(st.sampled_from([*KEYS, "inputs", "outputs", "id"]))] = draw(JSON)
    content = json.dumps(body).encode()
    headers = {}
    if draw(st.booleans()):
        lie = draw(st.integers(-2, 40) | st.just(2**70))
        headers["inference-header-content-length"] = str(len(content) + lie).encode()
        content += draw(st.binary(max_size=20))
    if draw(st.integers(0, 3)) == 0:
        content = draw(mutated(content))
    return f"/v2/models/{model}/infer", content, headers


PATH_PARTS = (
    *("models", "linear", "versions", "1", "infer", "ready", "config", "stats"),
    *("generate", "generate_stream"),
    *("repository", "index", "load", "health", "live", "trace", "setting", "logging", "status"),
    *("systemsharedmemory", "region", "é", "\udcff", "..", ""),
)
