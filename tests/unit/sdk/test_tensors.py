"""Arrays survive the protocol; bytes that lie about themselves do not."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lepton.client import TensorError, tensors
from lepton.oip.v2 import open_inference_pb2 as pb

NUMERIC = sorted(set(tensors._DTYPES) - {"BYTES"})
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@given(st.data(), st.sampled_from(NUMERIC), SHAPES, st.sampled_from("<>"))
@settings(max_examples=150, deadline=None)
def test_numbers_come_back(
    data: st.DataObject, name: str, shape: tuple[int, ...], order: str
) -> None:
    """Whatever the type, the shape, the byte order and the strides."""
    dtype = tensors.dtype(name).newbyteorder(order)
    array = data.draw(hnp.arrays(dtype, shape))
    if array.ndim > 1:
        array = array.swapaxes(0, 1)
    assert tensors.datatype(array) == name
    back = tensors.decode(tensors.encode(array), name, array.shape)
    assert back.dtype == tensors.dtype(name)
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)


@given(st.data(), SHAPES)
@settings(max_examples=80, deadline=None)
def test_bytes_come_back(data: st.DataObject, shape: tuple[int, ...]) -> None:
    count = math.prod(shape)
    elements = data.draw(st.lists(st.binary(max_size=8), min_size=count, max_size=count))
    array = np.empty(count, dtype=object)
    array[:] = elements
    array = array.reshape(shape)
    assert tensors.datatype(array) == "BYTES"
    back = tensors.decode(tensors.encode(array), "BYTES", shape)
    assert back.shape == shape
    assert back.ravel().tolist() == elements


def test_text_goes_as_utf_8() -> None:
    raw = tensors.encode(np.array(["é", "bc"]))
    assert raw == b"\x02\x00\x00\x00\xc3\xa9\x02\x00\x00\x00bc"
    assert tensors.decode(raw, "BYTES", (2,)).tolist() == ["é".encode(), b"bc"]


@given(st.binary(max_size=40), st.sampled_from([*NUMERIC, "BYTES"]), SHAPES)
@settings(max_examples=200, deadline=None)
def test_no_bytes_do_more_than_a_tensor_error(
    raw: bytes, name: str, shape: tuple[int, ...]
) -> None:
    try:
        array = tensors.decode(raw, name, shape)
    except TensorError as error:
        assert name in str(error)
    else:
        assert array.shape == shape


@pytest.mark.parametrize(
    ("raw", "name", "shape"),
    [
        (b"\x00" * 3, "FP32", (1,)),
        (b"\x00" * 8, "FP32", (1,)),
        (b"\x00" * 8, "FP32", (-1,)),
        (b"\x00" * 8, "FP32", (-1, -2)),
        (b"\x01", "BYTES", (1,)),
        (struct.pack("<I", 5) + b"abcd", "BYTES", (1,)),
        (struct.pack("<I", 2**32 - 1), "BYTES", (1,)),
        (struct.pack("<I", 1) + b"a" + b"\x00", "BYTES", (1,)),
        (struct.pack("<I", 1) + b"a", "BYTES", (2,)),
        (b"", "BYTES", (1,)),
        (b"", "BF16", (0,)),
        (b"", "FP8", (0,)),
    ],
)
def test_bytes_that_lie(raw: bytes, name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(TensorError, match=name):
        tensors.decode(raw, name, shape)


@pytest.mark.parametrize("dtype", ["c8", "M8[s]", "g", [("a", "i4")]])
def test_what_the_protocol_cannot_carry(dtype: Any) -> None:
    array = np.zeros(1, dtype)
    for refuse in (tensors.datatype, tensors.encode):
        with pytest.raises(TensorError, match="convert it to one of"):
            refuse(array)
    with pytest.raises(TensorError):
        tensors.infer_request("digits", {"image": array})


def test_a_request_says_what_it_carries() -> None:
    request = tensors.infer_request("digits", {"image": np.zeros((2, 3), np.uint8)})
    assert request.model_name == "digits"
    (given_input,) = request.inputs
    assert (given_input.name, given_input.datatype) == ("image", "UINT8")
    assert list(given_input.shape) == [2, 3]
    assert request.raw_input_contents == [b"\x00" * 6]


def test_a_response_whose_parts_do_not_match_is_refused() -> None:
    output = pb.ModelInferResponse.InferOutputTensor(name="scores", datatype="FP32", shape=[1])
    with pytest.raises(TensorError, match="1 outputs and 0 raw contents"):
        tensors.outputs(pb.ModelInferResponse(outputs=[output]))
