"""Whether what a model computes is bounded by its shapes, or grows with the values it is given.

A graph in which every size is known from the shapes of its inputs takes the same memory and time
whatever it is asked; one trial says what that is. Sizes that are computed from values, and loops,
take what a request says.
"""

from __future__ import annotations

from collections.abc import Iterable, Set

import onnx.inliner
from onnx import GraphProto, ModelProto, NodeProto

_SIZED_BY = {
    "AffineGrid": (1,),
    "BlackmanWindow": (0,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "DFT": (1, 2),
    "Expand": (1,),
    "HammingWindow": (0,),
    "HannWindow": (0,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1, 2, 3, 4),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
    "STFT": (1, 3),
    "Tile": (1, 2),
    "Upsample": (1,),
}
"""Operators whose output is as large as the values of certain inputs say."""
_SIZED_BY_ALL = frozenset({"Compress", "NonZero", "StringSplit", "Unique"})
"""Operators whose output is as large as what they find."""
_LOOPS = frozenset({"Loop", "Scan", "SequenceMap"})
_SHAPES = frozenset({"Shape", "Size"})
"""Operators whose output depends on no value."""
_KNOWN_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})


def growth_of(model: ModelProto) -> str:
    """What makes the model's memory or time depend on the values it is given; "" for nothing."""
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    inputs = {value.name for value in model.graph.input}
    return _growth(model.graph, inputs)[0]


def _growth(graph: GraphProto, given: Set[str]) -> tuple[str, set[str]]:
    """What grows in the graph, and the tensors whose values depend on those of ``given``."""
    values = set(given)
    for node in graph.node:
        said = _of_node(node, values)
        if said:
            return said, values
    return "", values


def _of_node(node: NodeProto, values: set[str]) -> str:
    """What grows in the node; adds those of its outputs to ``values`` that depend on values."""
    kind = node.op_type
    name = f"the operator {kind}" + (f" ('{node.name}')" if node.name else "")
    if node.domain not in _KNOWN_DOMAINS:
        return f"{name} of {node.domain} is not known to be bounded"
    if kind in _LOOPS:
        return f"{name} repeats a part of the graph"
    depends = bool(values.intersection(node.input))
    for branch in _branches(node):
        said, inside = _growth(branch, values)
        if said:
            return said
        depends = depends or bool(inside.intersection(value.name for value in branch.output))
    sizes = [node.input[index] for index in _SIZED_BY.get(kind, ()) if index < len(node.input)]
    if values.intersection(sizes) or (kind in _SIZED_BY_ALL and depends):
        return f"{name} takes a size from the values of a request"
    if depends and kind not in _SHAPES:
        values.update(node.output)
    return ""


def _branches(node: NodeProto) -> Iterable[GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]
