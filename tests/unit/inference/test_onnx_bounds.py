"""Which models may share the server's process: those that take what their shapes say."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper
from onnx import numpy_helper as arrays

from lepton_inference.adapters.onnx_bounds import growth_of
from tests import hostile_models as hostile
from tests.inference_models import linear

ONE = arrays.from_array(np.array([1, 1], np.int64), "one")


def node(kind: str, inputs: str, outputs: str, **attributes: object) -> NodeProto:
    return helper.make_node(kind, inputs.split(), outputs.split(), **attributes)


def branching(*inside: NodeProto) -> list[NodeProto]:
    said = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    graph = helper.make_graph(list(inside), "branch", [], said)
    return [
        node("ReduceMax", "x", "most", keepdims=0),
        node("Cast", "most", "yes", to=TensorProto.BOOL),
        node("If", "yes", "y", then_branch=graph, else_branch=graph),
    ]


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Relu", "x", "y")],
        [node("Expand", "x one", "y")],
        [node("Shape", "x", "s"), node("Expand", "x s", "y")],
        [node("Shape", "x", "s"), node("Mul", "s one", "t"), node("Tile", "x t", "y")],
        [node("Constant", "", "s", value_ints=[1, 1]), node("Tile", "x s", "y")],
        branching(node("Relu", "x", "z")),
    ],
)
def test_sizes_that_shapes_decide_are_bounded(nodes: list[NodeProto]) -> None:
    """Constants, and what is computed from shapes alone."""
    assert growth_of(hostile.model_of(nodes, [ONE])) == ""


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        ([node("Cast", "x", "s", to=TensorProto.INT64), node("Expand", "x s", "y")], "Expand"),
        ([node("Cast", "x", "s", to=TensorProto.INT64), node("Tile", "x s", "y")], "Tile"),
        ([node("Cast", "x", "s", to=7), node("ConstantOfShape", "s", "y")], "ConstantOfShape"),
        ([node("Range", "a x b", "y")], "Range"),
        ([node("Cast", "x", "s", to=TensorProto.INT64), node("Pad", "x s", "y")], "Pad"),
        ([helper.make_node("Resize", ["x", "", "x"], ["y"])], "Resize"),
        ([node("OneHot", "x x one", "y")], "OneHot"),
        ([node("NonZero", "x", "y")], "NonZero"),
        (branching(node("Cast", "x", "s", to=7), node("Expand", "x s", "z")), "Expand"),
        # What a branch gives depends on which one is taken.
        (
            [
                *branching(node("Identity", "one", "z"))[:-1],
                branching(node("Identity", "one", "z"))[-1],
                node("Expand", "x y", "w"),
            ],
            "Expand",
        ),
        ([node("Gelu", "x", "y", domain="com.microsoft")], "com.microsoft"),
    ],
)
def test_sizes_that_values_decide_are_not(nodes: list[NodeProto], said: str) -> None:
    """The operator is named."""
    assert said in growth_of(hostile.model_of(nodes, [ONE]))


def test_loops_are_not() -> None:
    """However often they would run."""
    assert "Loop" in growth_of(onnx.load_from_string(hostile.endless()))


def test_functions_are_looked_into() -> None:
    """A model's own operators are what they are made of."""
    opsets = [helper.make_opsetid("", 21)]
    for inside, said in ((node("Relu", "a", "b"), ""), (node("NonZero", "a", "b"), "NonZero")):
        own = helper.make_function("mine", "Own", ["a"], ["b"], [inside], opsets)
        model = hostile.model_of([node("Own", "x", "y", domain="mine")], functions=[own])
        model.opset_import.append(helper.make_opsetid("mine", 1))
        growth = growth_of(model)
        assert said in growth
        assert bool(said) == bool(growth)


def test_a_plain_model_is_bounded() -> None:
    """As nearly all are."""
    assert growth_of(onnx.load_from_string(linear(1.0))) == ""
