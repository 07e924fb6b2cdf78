"""Small ONNX models for tests of serving, built without a training framework."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NUMBERS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
}
"""Datatypes of the protocol that numpy has too, and ONNX's element types."""
_IR_VERSION = 10
_OPSET = [helper.make_opsetid("", 21)]


def linear(factor: float, columns: int = 4, classes: int = 3) -> bytes:
    """``scores = image @ W`` with W full of ``factor``: FP32 [-1, columns] -> [-1, classes]."""
    weights = numpy_helper.from_array(np.full((columns, classes), factor, np.float32), "W")
    node = helper.make_node("MatMul", ["image", "W"], ["scores"])
    graph = helper.make_graph(
        [node],
        "linear",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", columns])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", classes])],
        [weights],
    )
    return _bytes(graph)


def identity(element: int, shape: list[int | str], **metadata: str) -> bytes:
    """``y = x`` for tensors of an ONNX element type, with metadata of the model."""
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph(
        [node],
        "identity",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, shape)],
    )
    return _bytes(graph, metadata)


def bfloat16_and_text() -> bytes:
    """``y = x`` for BF16 and ``t = s`` for text, both [-1, 1]."""
    names = {"x": TensorProto.BFLOAT16, "s": TensorProto.STRING}
    outputs = {"y": TensorProto.BFLOAT16, "t": TensorProto.STRING}
    graph = helper.make_graph(
        [
            helper.make_node("Identity", [given], [taken])
            for given, taken in zip(names, outputs, strict=True)
        ],
        "bfloat16-and-text",
        [helper.make_tensor_value_info(name, kind, ["batch", 1]) for name, kind in names.items()],
        [helper.make_tensor_value_info(name, kind, ["batch", 1]) for name, kind in outputs.items()],
    )
    return _bytes(graph)


def two_by_two() -> bytes:
    """``total = a + b`` (FP32 [-1, 2]) and ``count`` = ``n`` (INT64 [-1, 1]) unchanged."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["a", "b"], ["total"]),
            helper.make_node("Identity", ["n"], ["count"]),
        ],
        "two",
        [
            helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("n", TensorProto.INT64, ["batch", 1]),
        ],
        [
            helper.make_tensor_value_info("total", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("count", TensorProto.INT64, ["batch", 1]),
        ],
    )
    return _bytes(graph)


def across_rows() -> bytes:
    """``y = x - mean(x over the batch)``: rows see each other, so they may not share a batch."""
    axes = numpy_helper.from_array(np.array([0], np.int64), "axes")
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["x", "axes"], ["mean"], keepdims=1),
            helper.make_node("Sub", ["x", "mean"], ["y"]),
        ],
        "across",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [axes],
    )
    return _bytes(graph)


def lstm(features: int = 3, hidden: int = 4) -> bytes:
    """An LSTM whose states are tensors: ``x`` FP32 [-1, length, features] and the states ``h``
    and ``c`` [-1, hidden] -> ``y`` [-1, length, hidden] and the states ``h_next``, ``c_next``."""
    random = np.random.default_rng(11)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.uniform(-1, 1, shape).astype(np.float32), name)

    def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [
            helper.make_node("Transpose", ["x"], ["x_by_step"], perm=[1, 0, 2]),
            helper.make_node("Unsqueeze", ["h", "first"], ["h_before"]),
            helper.make_node("Unsqueeze", ["c", "first"], ["c_before"]),
            helper.make_node(
                "LSTM",
                ["x_by_step", "W", "R", "B", "", "h_before", "c_before"],
                ["y_by_step", "h_after", "c_after"],
                hidden_size=hidden,
            ),
            helper.make_node("Squeeze", ["y_by_step", "second"], ["y_one_way"]),
            helper.make_node("Transpose", ["y_one_way"], ["y"], perm=[1, 0, 2]),
            helper.make_node("Squeeze", ["h_after", "first"], ["h_next"]),
            helper.make_node("Squeeze", ["c_after", "first"], ["c_next"]),
        ],
        "lstm",
        # A state before and a state after the input, so that order is put to the test.
        [
            value("h", "batch", hidden),
            value("x", "batch", "length", features),
            value("c", "batch", hidden),
        ],
        [
            value("h_next", "batch", hidden),
            value("y", "batch", "length", hidden),
            value("c_next", "batch", hidden),
        ],
        [
            weights("W", 1, 4 * hidden, features),
            weights("R", 1, 4 * hidden, hidden),
            weights("B", 1, 8 * hidden),
            numpy_helper.from_array(np.array([0], np.int64), "first"),
            numpy_helper.from_array(np.array([1], np.int64), "second"),
        ],
    )
    return _bytes(graph)


def fibonacci(width: int = 1) -> bytes:
    """``y = x + before`` and ``after = x``, all INT64 [-1, width].

    With ``before`` a state and ``y`` fed back to ``x`` it generates Fibonacci's numbers.
    """
    value = partial(
        helper.make_tensor_value_info, elem_type=TensorProto.INT64, shape=["batch", width]
    )
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "before"], ["y"]),
            helper.make_node("Identity", ["x"], ["after"]),
        ],
        "fibonacci",
        [value("x"), value("before")],
        [value("y"), value("after")],
    )
    return _bytes(graph)


def with_external_weights(location: str) -> bytes:
    """A linear model that says its weights are in the file ``location``."""
    model = onnx.load_from_string(linear(1.0))
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", location
    return model.SerializeToString()


def _bytes(graph: onnx.GraphProto, metadata: Mapping[str, str] | None = None) -> bytes:
    model = helper.make_model(graph, opset_imports=_OPSET, ir_version=_IR_VERSION)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model)
    return model.SerializeToString()
