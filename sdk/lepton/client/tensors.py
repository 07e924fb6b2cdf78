"""numpy arrays to Open Inference tensors and back.

Data types after the Open Inference Protocol, version 2, "Tensor Data Types".
Raw contents are little-endian and row-major; BYTES elements have a 4-byte
little-endian length before each.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lepton.client.errors import TensorError
from lepton.oip.v2 import open_inference_pb2 as pb

Array = npt.NDArray[Any]

_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_DATATYPES = {dtype: name for name, dtype in _DTYPES.items()}
_LISTS = (list, tuple)
_DIMENSIONS_MAX = 64
"""Of an array of numpy."""


def datatype(array: Array) -> str:
    """The protocol's name of an array's dtype.

    Raises:
        TensorError: The protocol has none.
    """
    if array.dtype.kind in "SUO":
        return "BYTES"
    name = _DATATYPES.get(array.dtype.newbyteorder("<"))
    if name is None:
        raise TensorError(
            f"dtype {array.dtype} has no Open Inference type; convert it to one of "
            f"{', '.join(_DTYPES)} or BYTES"
        )
    return name


def dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a protocol type; ``object`` for BYTES.

    Raises:
        TensorError: The type is unknown, or numpy has none for it (BF16).
    """
    if name == "BYTES":
        return np.dtype(object)
    if name not in _DTYPES:
        raise TensorError(
            f"data type {name} has no numpy equivalent; there are {', '.join(_DTYPES)} and BYTES"
        )
    return _DTYPES[name]


def from_plain(data: Any, datatype: str, what: str) -> Array:
    """The array that nested lists, or a plain value, make of a protocol type.

    Args:
        what: Its name in messages.

    Raises:
        TensorError: They make none without a value being changed, or numpy has no such type.
    """
    try:
        wanted = dtype(datatype)
    except TensorError as error:
        raise TensorError(f"{what}: {error}") from None
    try:
        found, array = np.array(data), np.array(data, dtype=wanted)
    except (ValueError, OverflowError, TypeError):
        raise TensorError(f"{what} {_fault(data, wanted, datatype)}") from None
    # numpy would cut 0.5 to 0, and read "7" as 7, without a word.
    if wanted.kind != "O" and found.size and found.dtype.kind not in _kinds(wanted):
        raise TensorError(f"{what} {_fault(data, wanted, datatype)}")
    return array


def _kinds(wanted: np.dtype[Any]) -> str:
    """The kinds of values that a type takes without changing them."""
    return "biu" if wanted.kind in "biu" else "biuf"


def _fault(data: Any, wanted: np.dtype[Any], datatype: str) -> str:
    """What is wrong with values that make no array of a type, and where."""
    if isinstance(data, np.ndarray):
        data = data.tolist()
    fault = f"does not make a {datatype} tensor"
    if uneven := _uneven(data, ""):
        return f"{fault}: {uneven}"
    for place, value in _values(data, "") if wanted.kind != "O" else ():
        at = f"the value {json.dumps(value, default=str)[:40]}" + (f" at {place}" if place else "")
        if np.array(value).dtype.kind not in _kinds(wanted):
            return f"{fault}: {at} is no {'whole ' if wanted.kind in 'biu' else ''}number"
        try:
            np.array(value, dtype=wanted)
        except OverflowError:
            return f"{fault}: {at} is out of its range"
    return f"{fault}: its values are of several kinds"


def _uneven(data: Any, place: str) -> str:
    """Where nested lists are no array because they differ in length or are too deep."""
    if len(_shape(data)) > _DIMENSIONS_MAX:
        return f"its lists are nested deeper than {_DIMENSIONS_MAX}"
    for index, item in enumerate(data if isinstance(data, _LISTS) else ()):
        if _shape(item) != _shape(data[0]):
            return f"{place}[0] and {place}[{index}] are not of one shape"
        if told := _uneven(item, f"{place}[{index}]"):
            return told
    return ""


def _shape(data: Any) -> tuple[int, ...]:
    """The shape of nested lists, if they all are as the first ones."""
    sizes = []
    while isinstance(data, _LISTS):
        sizes.append(len(data))
        data = data[0] if data else None
    return tuple(sizes)


def _values(data: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Each value of nested lists with its place, such as ``[0][3]``."""
    if not isinstance(data, _LISTS):
        yield place, data
        return
    for index, item in enumerate(data):
        yield from _values(item, f"{place}[{index}]")


def encode(array: Array) -> bytes:
    """An array's raw contents.

    Raises:
        TensorError: The protocol has no type for its dtype.
    """
    if datatype(array) == "BYTES":
        elements = [
            element if isinstance(element, bytes) else str(element).encode()
            for element in array.ravel()
        ]
        return b"".join(struct.pack("<I", len(element)) + element for element in elements)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def decode(raw: bytes, name: str, shape: tuple[int, ...]) -> Array:
    """The array that raw contents hold; read-only but for BYTES.

    Raises:
        TensorError: The bytes do not fill the shape, or the type has no numpy equivalent.
    """
    element = dtype(name)
    count = math.prod(shape)
    wrong = TensorError(f"{len(raw)} bytes do not make a {name} tensor of shape {list(shape)}")
    if any(size < 0 for size in shape):
        raise wrong
    if name == "BYTES":
        elements = _elements(raw)
        if elements is None or len(elements) != count:
            raise wrong
        array = np.empty(count, dtype=object)
        array[:] = elements
        return array.reshape(shape)
    if len(raw) != count * element.itemsize:
        raise wrong
    return np.frombuffer(raw, element).reshape(shape)


def _elements(raw: bytes) -> list[bytes] | None:
    """The elements of a BYTES tensor; None when their lengths and the bytes disagree."""
    elements, at = [], 0
    while at < len(raw):
        if at + 4 > len(raw):
            return None
        (length,) = struct.unpack_from("<I", raw, at)
        at += 4 + length
        if at > len(raw):
            return None
        elements.append(raw[at - length : at])
    return elements


def infer_request(endpoint: str, inputs: Mapping[str, Array]) -> pb.ModelInferRequest:
    """A ModelInfer request with its inputs as raw contents.

    Raises:
        TensorError: The protocol has no type for an array's dtype.
    """
    return pb.ModelInferRequest(
        model_name=endpoint,
        inputs=[
            pb.ModelInferRequest.InferInputTensor(
                name=name, datatype=datatype(array), shape=array.shape
            )
            for name, array in inputs.items()
        ],
        raw_input_contents=[encode(array) for array in inputs.values()],
    )


def outputs(response: pb.ModelInferResponse) -> dict[str, Array]:
    """The arrays of a ModelInfer response, by name.

    Raises:
        TensorError: The response has its outputs elsewhere than in raw contents, or they are
            not what it says.
    """
    if len(response.outputs) != len(response.raw_output_contents):
        raise TensorError(
            f"{response.model_name} answered with {len(response.outputs)} outputs and "
            f"{len(response.raw_output_contents)} raw contents; there must be one for each"
        )
    return {
        tensor.name: decode(raw, tensor.datatype, tuple(tensor.shape))
        for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)
    }
