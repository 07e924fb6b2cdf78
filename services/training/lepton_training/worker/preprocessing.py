"""Preprocessing as an ONNX graph: built when it is fitted, run in training, served with the model.

Training rows go through the very graph that is exported in front of the network, so
that what is served cannot drift from what was trained.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
"""Of ai.onnx; the first with StringSplit."""
_ML_OPSET = 4
_IR_VERSION = 10
_ROWS_AT_ONCE = 4096
_ELEMENTS = {
    "FP32": TensorProto.FLOAT,
    "INT64": TensorProto.INT64,
    "UINT8": TensorProto.UINT8,
    "BYTES": TensorProto.STRING,
}
"""Element type by Open Inference data type."""


class Graph:
    """Builds a preprocessing graph; tensors are known by their names."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._told: list[onnx.ValueInfoProto] = []
        self._numbers = itertools.count()

    def input(self, name: str, datatype: str, shape: Sequence[int | str]) -> str:
        """A raw input; ``shape`` begins with ``"batch"``."""
        self._inputs.append(helper.make_tensor_value_info(name, _ELEMENTS[datatype], list(shape)))
        return name

    def constant(self, values: npt.ArrayLike, dtype: Any) -> str:
        """A tensor that does not vary."""
        array = np.asarray(values, dtype)
        self._constants.append(numpy_helper.from_array(array, name := self._name()))
        return name

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """The first output of a new node."""
        name = self._name()
        self._nodes.append(
            helper.make_node(operator, list(inputs), [name], domain=domain, **attributes)
        )
        return name

    def told(self, tensor: str, datatype: str, shape: Sequence[int | str]) -> str:
        """Says what ``tensor`` is, where ONNX cannot infer it: operators that are not its own."""
        self._told.append(helper.make_tensor_value_info(tensor, _ELEMENTS[datatype], list(shape)))
        return tensor

    def output(self, tensor: str, name: str, datatype: str, shape: Sequence[int | str]) -> None:
        """Gives ``tensor`` out, as an input of the network."""
        self._nodes.append(helper.make_node("Identity", [tensor], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, _ELEMENTS[datatype], list(shape)))

    def build(self) -> bytes:
        """The graph as an ONNX model."""
        graph = helper.make_graph(
            self._nodes,
            "preprocessing",
            self._inputs,
            self._outputs,
            initializer=self._constants,
            value_info=self._told,
        )
        domains = {"": OPSET} | {
            node.domain: _ML_OPSET if node.domain == "ai.onnx.ml" else 1
            for node in self._nodes
            if node.domain
        }
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(*domain) for domain in domains.items()],
            ir_version=_IR_VERSION,
        )
        onnx.checker.check_model(model, full_check=True)
        content: bytes = model.SerializeToString()
        return content

    def _name(self) -> str:
        # Apart from the names of the network's graph, with which it is joined.
        return f"prepare/{next(self._numbers)}"


class Preprocessor:
    """A preprocessing graph that runs."""

    def __init__(self, content: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self.model = onnx.load_from_string(content)
        self._session = onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"]
        )
        self.outputs: tuple[tuple[str, tuple[str, ...]], ...] = tuple(
            (
                value.name,
                tuple(d.dim_param for d in value.type.tensor_type.shape.dim[1:] if d.dim_param),
            )
            for value in self.model.graph.output
        )
        """Each with the names of its dimensions, beside the batch, that vary."""

    def __call__(self, rows: Mapping[str, npt.NDArray[Any]]) -> tuple[npt.NDArray[Any], ...]:
        """The network's inputs for raw ``rows`` by name, all at once."""
        wanted = {value.name for value in self.model.graph.input}
        found: list[npt.NDArray[Any]] = self._session.run(
            [name for name, _ in self.outputs],
            {name: rows[name] for name in wanted},
        )
        return tuple(found)

    def in_pieces(self, rows: Mapping[str, npt.NDArray[Any]]) -> tuple[npt.NDArray[Any], ...]:
        """The same in bounded memory; for outputs none of whose dimensions vary."""
        count = len(next(iter(rows.values())))
        parts = [
            self({name: values[begin : begin + _ROWS_AT_ONCE] for name, values in rows.items()})
            for begin in range(0, count, _ROWS_AT_ONCE)
        ]
        return tuple(np.concatenate(pieces) for pieces in zip(*parts, strict=True))


def stand_in(values: npt.NDArray[np.float64], impute: str, constant: float) -> float:
    """What stands for a missing number, of those of training that are there; 0 where none is.

    Args:
        impute: ``median``, ``mean``, ``most_frequent`` (the lowest of those as frequent),
            ``constant`` or ``zero``.
    """
    if impute == "constant":
        return constant
    if impute == "zero" or not len(values):
        return 0.0
    if impute == "most_frequent":
        found, counts = np.unique(values, return_counts=True)
        return float(found[counts.argmax()])
    return float(np.median(values) if impute == "median" else values.mean())


def scale_of(
    filled: npt.NDArray[np.floating[Any]], scaling: str
) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.floating[Any]]]:
    """What is taken off each column of ``filled`` ``[N, columns]``, and what it is then divided by.

    Args:
        scaling: ``standard``, ``minmax``, ``symmetric`` or ``none``.
    """
    low, high = filled.min(axis=0), filled.max(axis=0)
    shift, width = {
        "standard": (filled.mean(axis=0), filled.std(axis=0)),
        "minmax": (low, high - low),
        "symmetric": ((low + high) / 2, (high - low) / 2),
        "none": (np.zeros_like(low), np.ones_like(low)),
    }[scaling]
    return shift, np.where(width == 0, 1, width)
