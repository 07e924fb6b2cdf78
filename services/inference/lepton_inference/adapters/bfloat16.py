"""BF16 tensors with ONNX Runtime, whose numpy interface does not know them.

They go in and out as ONNX Runtime's own values, and are UINT16 arrays of their bits here.
"""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import onnxruntime as ort

_BFLOAT16 = 16
"""Of TensorProto.DataType in onnx.proto, whose import each process of a model would wait for."""
_TYPE = "tensor(bfloat16)"
_TEXT = "tensor(string)"


def has_bfloat16(session: ort.InferenceSession) -> bool:
    """Whether an input or an output of the model is BF16."""
    return any(node.type == _TYPE for node in (*session.get_inputs(), *session.get_outputs()))


def takes_text(session: ort.InferenceSession) -> bool:
    """Whether an input is text, which cannot be made one of ONNX Runtime's own values."""
    return any(node.type == _TEXT for node in session.get_inputs())


class Bfloat16Session:
    """A session that takes and gives BF16 as bits; everything else is the session's own."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._inputs = {node.name for node in session.get_inputs() if node.type == _TYPE}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(
        self, _: None, feeds: dict[str, np.ndarray[Any, Any]], options: Any = None
    ) -> list[np.ndarray[Any, Any]]:
        """As ``InferenceSession.run``, of all outputs."""
        values = {name: self._value(name, array) for name, array in feeds.items()}
        return [_array(value) for value in self._session.run_with_ort_values(None, values, options)]

    def _value(self, name: str, array: np.ndarray[Any, Any]) -> Any:
        if name not in self._inputs:
            return ort.OrtValue.ortvalue_from_numpy(array)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
            np.ascontiguousarray(array), _BFLOAT16
        )


def _array(value: Any) -> np.ndarray[Any, Any]:
    if value.data_type() != _TYPE:
        return np.asarray(value.numpy())
    shape = tuple(value.shape())
    size = math.prod(shape) * np.dtype(np.uint16).itemsize
    # Copied: the memory is the value's, and goes with it.
    bits = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(bits, np.uint16).reshape(shape)
