"""Small ONNX models for tests of serving, built without a training framework."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

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


def identity(element: int, shape: list[int | str]) -> bytes:
    """``y = x`` for tensors of an ONNX element type."""
    node = helper.make_node("Identity", ["x"], ["y"])
    graph = helper.make_graph(
        [node],
        "identity",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, shape)],
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


def with_external_weights(location: str) -> bytes:
    """A linear model that says its weights are in the file ``location``."""
    model = onnx.load_from_string(linear(1.0))
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    entry = weights.external_data.add()
    entry.key, entry.value = "location", location
    return model.SerializeToString()


def _bytes(graph: onnx.GraphProto) -> bytes:
    model = helper.make_model(graph, opset_imports=_OPSET, ir_version=_IR_VERSION)
    onnx.checker.check_model(model)
    return model.SerializeToString()
