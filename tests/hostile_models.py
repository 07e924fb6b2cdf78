"""ONNX models that mean harm, for tests of what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    helper,
)
from onnx import numpy_helper as arrays

IMAGE = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
SCORES = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])


def model_of(
    nodes: Sequence[NodeProto], weights: Sequence[TensorProto] = (), **more: object
) -> ModelProto:
    """A model of ``nodes``, unchecked: FP32 ``x`` [-1, 4] to ``y`` [-1, 4]."""
    graph = helper.make_graph(nodes, "hostile", [IMAGE], [SCORES], list(weights))
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, **more)


def cyclic() -> bytes:
    """Two nodes that wait for each other."""
    nodes = [
        helper.make_node("Add", ["x", "back"], ["y"]),
        helper.make_node("Relu", ["y"], ["back"]),
    ]
    return model_of(nodes).SerializeToString()


def without_opset() -> bytes:
    """It does not say in which version its operators are."""
    model = model_of([helper.make_node("Relu", ["x"], ["y"])])
    del model.opset_import[:]
    return model.SerializeToString()


def unknown_operator() -> bytes:
    """An operator of a domain that nobody has."""
    return model_of([helper.make_node("Steal", ["x"], ["y"], domain="evil")]).SerializeToString()


def weights_of(dims: Sequence[int], raw: bytes) -> bytes:
    """``x + W`` where W says that it is FP32 of the shape ``dims``, and is ``raw``."""
    weights = TensorProto(name="W", data_type=TensorProto.FLOAT, dims=dims, raw_data=raw)
    return model_of([helper.make_node("Add", ["x", "W"], ["y"])], [weights]).SerializeToString()


def external(location: str, *, in_branch: bool = False) -> bytes:
    """``x + W`` with W in the file ``location``; in a graph within the graph if ``in_branch``."""
    weights = TensorProto(
        name="W", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        weights.external_data.add(key=key, value=value)
    add = helper.make_node("Add", ["x", "W"], ["sum"])
    if not in_branch:
        add.output[0] = "y"
        return model_of([add], [weights]).SerializeToString()
    said = [helper.make_tensor_value_info("sum", TensorProto.FLOAT, None)]
    branch = helper.make_graph([add], "branch", [], said, [weights])
    choose = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    return model_of([choose], [arrays.from_array(np.array(True), "yes")]).SerializeToString()


def external_inside(place: str, location: str) -> bytes:
    """``y = x``, and a tensor in the file ``location`` where few would look for it.

    ``place``: ``function``, ``default`` (of a function's attribute), ``sparse`` (an attribute) or
    ``training``.
    """
    model = model_of([helper.make_node("Relu", ["x"], ["y"])])
    weights = TensorProto(
        name="W", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL
    )
    weights.external_data.add(key="location", value=location)
    constant = helper.make_node("Constant", [], ["c"], value=weights)
    if place == "training":
        model.training_info.add().algorithm.initializer.append(weights)
    elif place == "sparse":
        indices = arrays.from_array(np.arange(4), "indices")
        node = model.graph.node.add(op_type="Constant", output=["c"])
        hidden = node.attribute.add(name="sparse_value", type=AttributeProto.SPARSE_TENSOR)
        hidden.sparse_tensor.CopyFrom(SparseTensorProto(values=weights, indices=indices, dims=[9]))
    else:
        function = model.functions.add(name="Hide", domain="local", output=["c"])
        function.opset_import.append(helper.make_opsetid("", 21))
        model.opset_import.append(helper.make_opsetid("local", 1))
        if place == "function":
            function.node.append(constant)
        else:
            function.attribute_proto.append(constant.attribute[0])
    return model.SerializeToString()


def compiled_elsewhere() -> bytes:
    """A graph that an execution provider is to read from a file."""
    node = helper.make_node(
        "EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context="/etc/hostname"
    )
    return model_of([node]).SerializeToString()


def nested(depth: int) -> bytes:
    """Branches within branches. Written by hand: no library goes so deep."""
    graph = GraphProto(name="inner").SerializeToString()
    for _ in range(depth):
        attribute = AttributeProto(name="then_branch", type=AttributeProto.GRAPH)
        inside = _field(5, attribute.SerializeToString() + _field(6, graph))
        graph = _field(1, inside + NodeProto(op_type="If").SerializeToString())
    return _field(7, graph)


def expands_to(elements: int) -> bytes:
    """Adds up ``x`` repeated to so many elements a row."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "one"], ["narrow"]),
        helper.make_node("Expand", ["narrow", "shape"], ["wide"]),
        helper.make_node("ReduceMax", ["wide", "one"], ["y"], keepdims=0),
    ]
    weights = [
        arrays.from_array(np.array([1], np.int64), "one"),
        arrays.from_array(np.array([1, elements, 4], np.int64), "shape"),
    ]
    return model_of(nodes, weights).SerializeToString()


def endless() -> bytes:
    """A loop whose condition never turns false."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["on"], ["still_on"]),
            helper.make_node("Abs", ["before"], ["after"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, None),
        ],
    )
    loop = helper.make_node("Loop", ["", "yes", "x"], ["y"], body=body)
    return model_of([loop], [arrays.from_array(np.array(True), "yes")]).SerializeToString()


def grows_with_its_batch() -> bytes:
    """``y = x``, by way of the fourth power of the number of rows."""
    nodes = [
        helper.make_node("ReduceMax", ["x", "one"], ["column"]),
        helper.make_node("Transpose", ["column"], ["row"], perm=[1, 0]),
        helper.make_node("Mul", ["column", "row"], ["square"]),
        helper.make_node("Reshape", ["square", "tall"], ["long_column"]),
        helper.make_node("Transpose", ["long_column"], ["long_row"], perm=[1, 0]),
        helper.make_node("Mul", ["long_column", "long_row"], ["fourth"]),
        helper.make_node("ReduceMax", ["fourth"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "nothing"], ["zero"]),
        helper.make_node("Add", ["x", "zero"], ["y"]),
    ]
    weights = [
        arrays.from_array(np.array([1], np.int64), "one"),
        arrays.from_array(np.array([-1, 1], np.int64), "tall"),
        arrays.from_array(np.array(0, np.float32), "nothing"),
    ]
    return model_of(nodes, weights).SerializeToString()


def expands_to_its_value() -> bytes:
    """The largest value of ``x``, found by repeating each of its rows as often."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["times"], to=TensorProto.INT64),
        helper.make_node("Max", ["times", "one"], ["at_least_once"]),
        helper.make_node("Concat", ["one", "at_least_once", "one"], ["shape"], axis=0),
        helper.make_node("Unsqueeze", ["x", "one"], ["narrow"]),
        helper.make_node("Expand", ["narrow", "shape"], ["wide"]),
        helper.make_node("ReduceMax", ["wide", "one"], ["y"], keepdims=0),
    ]
    return model_of(nodes, [arrays.from_array(np.array([1], np.int64), "one")]).SerializeToString()


def sized_by_its_value(operator: str) -> bytes:
    """``y = x``, by way of a tensor that ``operator`` makes as large as the largest value of ``x``.

    The node is called ``grow``.
    """
    sizes = {
        "ConstantOfShape": ["shape"],
        "Expand": ["row", "shape"],
        "Range": ["nothing", "times", "step"],
        "Tile": ["row", "shape"],
    }
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["times"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["times", "one"], ["shape"]),
        helper.make_node(operator, sizes[operator], ["wide"], name="grow"),
        helper.make_node("Cast", ["wide"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["numbers"], ["total"], keepdims=0),
        helper.make_node("Mul", ["total", "zero"], ["still_zero"]),
        helper.make_node("Add", ["x", "still_zero"], ["y"]),
    ]
    weights = [
        arrays.from_array(np.array([1], np.int64), "one"),
        arrays.from_array(np.array([1], np.float32), "row"),
        arrays.from_array(np.array(0, np.int64), "nothing"),
        arrays.from_array(np.array(1, np.int64), "step"),
        arrays.from_array(np.array(0, np.float32), "zero"),
    ]
    return model_of(nodes, weights).SerializeToString()


def endless_above(limit: float) -> bytes:
    """``y = abs(x)``, by a loop that does not end while ``x`` has a value above ``limit``."""
    model = ModelProto.FromString(endless())
    model.graph.node.insert(0, helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0))
    model.graph.node.insert(1, helper.make_node("Greater", ["most", "limit"], ["on"]))
    model.graph.node[2].input[1] = "yes"
    # The body asks the graph around it, so that the loop runs once where it ends at all.
    body = model.graph.node[2].attribute[0].g
    body.node[0].input[0] = "on"
    body.input[1].name = "was_on"
    model.graph.initializer.append(arrays.from_array(np.array(limit, np.float32), "limit"))
    return model.SerializeToString()


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited field of a protobuf message."""
    out, size = bytearray([number << 3 | 2]), len(value)
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(out) + bytes([size]) + value
