"""Tensors as the Open Inference Protocol writes them: datatypes, shapes, raw bytes.

Raw tensors are row-major and little-endian, which is also how numpy and ONNX Runtime hold
them on every machine we run on, so a raw tensor is used as it came. BYTES elements are each
preceded by their length in four bytes.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_mesh.errors import InvalidArgument
from lepton_mesh.texts import counted

Buffer = bytes | memoryview
"""One raw tensor."""
Column = Buffer | np.ndarray[Any, Any]
"""One request's share of an input: raw bytes, or an object array for BYTES."""

_LENGTH = struct.Struct("<I")
_MAX_ELEMENTS = 1 << 40
_MAX_TEXTS = 1 << 20
"""Elements of one BYTES tensor, of which each becomes an object: half a second of Python."""
_MAX_DIMENSIONS = 64
"""As many as numpy has. Multiplying thousands of large ones takes seconds."""


class TensorInvalid(InvalidArgument):
    """A tensor's datatype, shape or content is not what the model or the protocol says."""

    reason = "TENSOR_INVALID"


@dataclass(frozen=True, slots=True)
class Datatype:
    """One datatype of the protocol, and what other systems call it."""

    name: str
    dtype: np.dtype[Any]
    onnx: str
    """ONNX Runtime's name for a tensor of it."""
    config: str
    """The value of Triton's enum ``DataType``."""
    contents: str
    """The field of ``InferTensorContents`` that carries it; "" where only raw bytes may."""

    @property
    def itemsize(self) -> int:
        """Bytes an element; 0 for BYTES, whose elements differ."""
        return 0 if self.dtype == object else self.dtype.itemsize


def _datatypes() -> Iterable[Datatype]:
    rows = (
        ("BOOL", np.bool_, "bool", "bool_contents"),
        ("UINT8", np.uint8, "uint8", "uint_contents"),
        ("UINT16", np.uint16, "uint16", "uint_contents"),
        ("UINT32", np.uint32, "uint32", "uint_contents"),
        ("UINT64", np.uint64, "uint64", "uint64_contents"),
        ("INT8", np.int8, "int8", "int_contents"),
        ("INT16", np.int16, "int16", "int_contents"),
        ("INT32", np.int32, "int32", "int_contents"),
        ("INT64", np.int64, "int64", "int64_contents"),
        ("FP16", np.float16, "float16", ""),
        ("FP32", np.float32, "float", "fp32_contents"),
        ("FP64", np.float64, "double", "fp64_contents"),
        # Its bits: numpy has no such number.
        ("BF16", np.uint16, "bfloat16", ""),
        ("BYTES", object, "string", "bytes_contents"),
    )
    for name, dtype, onnx, contents in rows:
        config = "TYPE_STRING" if name == "BYTES" else f"TYPE_{name}"
        yield Datatype(name, np.dtype(dtype), f"tensor({onnx})", config, contents)


DATATYPES = {datatype.name: datatype for datatype in _datatypes()}
BY_ONNX = {datatype.onnx: datatype for datatype in DATATYPES.values()}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a model."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    """-1 for a dimension that the request chooses."""
    names: tuple[str, ...] = ()
    """The dimensions' names in the model's graph, "" for one without."""


def numbers(array: np.ndarray[Any, Any], datatype: Datatype) -> np.ndarray[Any, Any]:
    """The values of an array of that datatype: BF16 as FP32, anything else as it is."""
    if datatype.name != "BF16":
        return array
    return (array.astype(np.uint32) << 16).view(np.float32)


def bfloat16_bits(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """FP32 values as BF16, cut off rather than rounded; a BF16 array holds bits, UINT16."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def element_count(shape: Sequence[int], name: str) -> int:
    """The elements of a tensor of that shape.

    Raises:
        TensorInvalid: A dimension is negative, there are more than any tensor has, or the
            product is beyond any memory.
    """
    if len(shape) > _MAX_DIMENSIONS:
        raise TensorInvalid(
            f"tensor '{name}' has {len(shape)} dimensions; there are at most {_MAX_DIMENSIONS}",
            tensor=name,
        )
    if any(dim < 0 for dim in shape):
        raise TensorInvalid(
            f"tensor '{name}' has the shape {list(shape)}; dimensions are 0 or more", tensor=name
        )
    count = math.prod(shape)
    if count > _MAX_ELEMENTS:
        # The count may have more digits than Python prints.
        raise TensorInvalid(
            f"tensor '{name}' claims more than {_MAX_ELEMENTS} elements", tensor=name
        )
    return count


def check_raw(name: str, datatype: Datatype, shape: Sequence[int], raw: Buffer) -> Column:
    """``raw`` as a column, once its length agrees with the shape.

    Raises:
        TensorInvalid: It does not, or the length prefixes of BYTES elements lie.
    """
    count = element_count(shape, name)
    if datatype.itemsize == 0:
        return decode_bytes(name, raw, count).reshape(tuple(shape))
    if len(raw) != count * datatype.itemsize:
        raise TensorInvalid(
            f"tensor '{name}' has {counted(len(raw), 'byte')}; {datatype.name} of the shape "
            f"{list(shape)} takes {count * datatype.itemsize}",
            tensor=name,
            bytes=len(raw),
            expected=count * datatype.itemsize,
        )
    return raw


def decode_bytes(name: str, raw: Buffer, count: int) -> np.ndarray[Any, Any]:
    """The ``count`` elements of a raw BYTES tensor as text, which ONNX strings are.

    Raises:
        TensorInvalid: A length runs past the end, bytes are left over, or it is not UTF-8.
    """
    if count > _MAX_TEXTS:
        raise TensorInvalid(
            f"tensor '{name}' has {count} BYTES elements; {_MAX_TEXTS} may come at a time",
            tensor=name,
        )
    # Every element takes four bytes at least: a lying count costs no memory.
    if count * _LENGTH.size > len(raw):
        raise TensorInvalid(
            f"tensor '{name}' has {counted(len(raw), 'byte')}, too few for "
            f"{counted(count, 'BYTES element')}",
            tensor=name,
        )
    elements = np.empty(count, dtype=object)
    position, end = 0, len(raw)
    for index in range(count):
        start = position + _LENGTH.size
        if start > end:
            raise TensorInvalid(f"tensor '{name}' ends inside element {index}", tensor=name)
        position = start + _LENGTH.unpack_from(raw, position)[0]
        if position > end:
            raise TensorInvalid(
                f"the length of element {index} of tensor '{name}' runs past its end", tensor=name
            )
        elements[index] = text(name, raw[start:position])
    if position != end:
        raise TensorInvalid(
            f"tensor '{name}' has {end - position} bytes after its last element", tensor=name
        )
    return elements


def encode_bytes(elements: np.ndarray[Any, Any]) -> bytes:
    """The raw form of a BYTES tensor."""
    parts: list[bytes] = []
    for element in elements.reshape(-1):
        value = element.encode() if isinstance(element, str) else bytes(element)
        parts += (_LENGTH.pack(len(value)), value)
    return b"".join(parts)


def text(name: str, value: Buffer) -> str:
    """A BYTES element as the UTF-8 text that ONNX strings are; raises TensorInvalid."""
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        raise TensorInvalid(
            f"tensor '{name}' has an element that is not UTF-8, which text in ONNX is", tensor=name
        ) from None
