"""Tensors as JSON: what requests give as columns, and outputs as values.

JSON has no NaN and no infinity (RFC 8259, section 6), and other servers disagree on what to
write: Triton bare ``NaN``, which strict parsers refuse; KServe ``null``, for infinities too.
Neither gives back what the model said, so here they are refused in both directions, and raw
tensors carry them.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from lepton_inference.batch import Outcome
from lepton_inference.tensors import Column, Datatype, TensorInvalid, TensorSpec, element_count
from lepton_mesh.errors import FailedPrecondition
from lepton_mesh.texts import counted


class OutputNotFinite(FailedPrecondition):
    """An output that JSON cannot carry; the request's own doing or the model's."""

    reason = "OUTPUT_NOT_FINITE"


_RAW_ONLY = ("BF16",)
"""FP16 is written as the numbers that it holds, though Triton's client sends it raw as well."""
_SHOWN = 40
"""Characters of a value that a message quotes."""


def values_of(data: object, name: str, datatype: Datatype) -> np.ndarray[Any, Any]:
    """An input's data, flat or nested, as numpy sees them.

    Raises:
        TensorInvalid: They are ragged or not all of the datatype, or it has no form in JSON.
    """
    if datatype.name in _RAW_ONLY:
        raise TensorInvalid(
            f"input '{name}' is {datatype.name}, which JSON has no form for; send it raw, by infer "
            "with the parameter 'binary_data_size'",
            tensor=name,
        )
    try:
        values = np.array(data, dtype=object if datatype.itemsize == 0 else None)
        if values.dtype.kind == "f" and datatype.dtype == np.uint64:
            # Of whole numbers on both sides of 2**63 numpy makes floats.
            exact = np.array(data, dtype=object)
            if all(type(value) is int and 0 <= value < 2**64 for value in exact.reshape(-1)):
                return exact.astype(np.uint64)
    except ValueError:
        raise _ragged(name) from None
    if values.size and not _holds(data, values, datatype):
        index, value = _first_wrong(data, datatype)
        if isinstance(value, list):
            raise _ragged(name)
        raise TensorInvalid(
            f"the data of input '{name}' are not all {datatype.name}: element {index}, counted "
            f"from 0 and row by row, is {shown(value)}",
            tensor=name,
            element=index,
        )
    return values


def _ragged(name: str) -> TensorInvalid:
    return TensorInvalid(
        f"the data of input '{name}' are ragged; nest them as the shape has them, or not at all",
        tensor=name,
    )


def column_of(
    values: np.ndarray[Any, Any], name: str, datatype: Datatype, shape: tuple[int, ...]
) -> Column:
    """The values that :func:`values_of` gave, as a tensor of that shape.

    Raises:
        TensorInvalid: They are more or fewer.
    """
    count = element_count(shape, name)
    if values.size != count:
        raise TensorInvalid(
            f"input '{name}' has {counted(values.size, 'element')}; the shape {list(shape)} takes "
            f"{count}",
            tensor=name,
        )
    if datatype.itemsize == 0:
        return values.reshape(shape)
    return values.astype(datatype.dtype).tobytes()


def elements_of(spec: TensorSpec, outcome: Outcome, index: int, rows: int) -> list[Any]:
    """One request's part of one output: its elements in row-major order.

    Raises:
        OutputNotFinite: It has a NaN or an infinity.
        TensorInvalid: Its datatype has no form in JSON.
    """
    batch, first = outcome
    array = batch.arrays[index]
    values = array[first : first + rows] if batch.batched else array
    name = spec.name
    if spec.datatype.name in _RAW_ONLY and values.dtype != object:
        raise TensorInvalid(
            f"output '{name}' is {spec.datatype.name}, which JSON has no form for; ask for it by "
            "infer with the parameter 'binary_data'",
            tensor=name,
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise OutputNotFinite(
            f"output '{name}' has a NaN or an infinity, which JSON cannot carry; ask for it by "
            "infer with the parameter 'binary_data'",
            output=name,
        )
    elements: list[Any] = values.reshape(-1).tolist()
    return elements


def _holds(data: object, values: np.ndarray[Any, Any], datatype: Datatype) -> bool:
    """Whether data, which are ``values`` to numpy, are of the datatype without becoming others."""
    if datatype.itemsize == 0:
        return set(map(type, values.reshape(-1))) <= {str}
    kind = datatype.dtype.kind
    if kind == "b":
        return values.dtype.kind == "b" or (
            values.dtype.kind in "iu" and bool(np.isin(values, (0, 1)).all())
        )
    if values.dtype.kind not in ("iuf" if kind == "f" else "iu") or _has_truth(data):
        return False
    if kind == "f":
        with np.errstate(over="ignore"):  # which is what is looked for
            return bool(np.isfinite(values.astype(datatype.dtype)).all())
    limits = np.iinfo(datatype.dtype)
    return int(values.min()) >= limits.min and int(values.max()) <= limits.max


def _has_truth(data: object) -> bool:
    """Whether there is a truth value, which numpy makes a number of if it stands beside one."""
    if not isinstance(data, list):
        return isinstance(data, bool)
    types = set(map(type, data))
    return bool in types or (list in types and any(map(_has_truth, data)))


def _first_wrong(data: object, datatype: Datatype) -> tuple[int, object]:
    """The first element that is not of the datatype, where not all are, and its place.

    Numbers by halves: looking at millions one by one would hold up other requests.
    """
    flat = np.array(data, dtype=object).reshape(-1).tolist()
    if datatype.itemsize == 0:
        return next((index, value) for index, value in enumerate(flat) if type(value) is not str)
    low, high = 0, len(flat)
    while high - low > 1:
        middle = (low + high) // 2
        half = flat[low:middle]
        if _holds(half, np.array(half), datatype):
            low = middle
        else:
            high = middle
    return low, flat[low]


def shown(value: object) -> str:
    """What stands in a body, as a message quotes it."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        value = value[:_SHOWN]
    return json.dumps(value, ensure_ascii=False)[: _SHOWN + 2]
