"""Every node and tensor of an ONNX model, wherever they lie: for those who judge a stranger's.

A tensor may name a file, and it may hide in a branch, in a function, in a function's default
value or in what the model says of its training. Nothing here imports onnx, which those have who
parsed the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto


def nodes_of(model: ModelProto) -> Iterator[NodeProto]:
    """Every node: of the graph, of the graphs in its nodes, of the model's functions."""
    for graph in _graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def tensors_of(model: ModelProto) -> Iterator[TensorProto]:
    """Every tensor: weights, and those in attributes, sparse ones in their two parts."""
    for graph in _graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    defaults = chain.from_iterable(function.attribute_proto for function in model.functions)
    for attribute in chain(_attributes(nodes_of(model)), defaults):
        yield from _attribute_tensors(attribute)


def _graphs(model: ModelProto) -> Iterator[GraphProto]:
    waiting = [model.graph]
    for info in model.training_info:
        waiting += (info.initialization, info.algorithm)
    for function in model.functions:
        waiting += _subgraphs(chain(_attributes(function.node), function.attribute_proto))
    while waiting:
        graph = waiting.pop()
        yield graph
        waiting += _subgraphs(_attributes(graph.node))


def _attributes(nodes: Iterable[NodeProto]) -> Iterator[AttributeProto]:
    for node in nodes:
        yield from node.attribute


def _subgraphs(attributes: Iterable[AttributeProto]) -> Iterator[GraphProto]:
    for attribute in attributes:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _attribute_tensors(attribute: AttributeProto) -> Iterator[TensorProto]:
    if attribute.HasField("t"):
        yield attribute.t
    yield from attribute.tensors
    if attribute.HasField("sparse_tensor"):
        yield from (attribute.sparse_tensor.values, attribute.sparse_tensor.indices)
    for sparse in attribute.sparse_tensors:
        yield from (sparse.values, sparse.indices)
