"""``make bench-gpu``: models on the CPU and on a GPU, and whether both say the same.

    python -m bench.gpu [--models mlp,cnn,resnet50] [--seconds 2] [--data FOLDER [--epochs 3]]

Runs on any machine with an NVIDIA GPU and needs no stack. It loads each model as an endpoint does,
on the CPU, with CUDA, with CUDA graphs, and with TensorRT where it is installed, and runs batches
of 1, 16 and 64 rows of random numbers. With a folder that has MNIST it also trains the cnn on both,
for the seconds of an epoch and the test accuracy. It prints a line for each and writes
``bench/results/gpu.json``.

Exit codes: 0 when everything was measured and agrees, 1 when outputs or accuracies differ, 2 when
this machine lacks something, which is then said.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench import gpu_training, program, resnet
from lepton_inference.adapters import devices, onnx_runtime
from lepton_inference.model_errors import ProviderMissing
from lepton_inference.settings import (
    BatchingSettings,
    ExecutionSettings,
    Isolation,
    ModelSettings,
)
from lepton_mesh.errors import FailedPrecondition, LeptonError

_RESULTS = Path(__file__).parent / "results" / "gpu.json"
_ROWS = (1, 16, 64)
_TRIAL_SECONDS = 1800.0
"""TensorRT may compile for so long."""
_TOLERANCE = 1e-2
"""Of the largest output: convolutions and products are computed in TF32 on recent GPUs."""
_VARIANTS: Mapping[str, dict[str, bool]] = {
    "cuda": {},
    "cuda graphs": {"cuda_graphs": True},
    "tensorrt": {"tensorrt": True},
}

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Model:
    """A file, and the shape of one row of its only input."""

    name: str
    path: Path
    row: tuple[int, ...]


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="bench.gpu")
    parser.add_argument("--models", default="mlp,cnn,resnet50")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--data", type=Path, help="folder with MNIST, to train on it too")
    parser.add_argument("--epochs", type=int, default=3, help="of the training")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    lacking = [_serving(options.models.split(","), options.seconds, rows)]
    if options.data is not None:
        lacking.append(_training(options.data, options.epochs, rows))
    for message in filter(None, lacking):
        sys.stderr.write(f"nothing to measure: {message}\n")
    if rows:
        _RESULTS.parent.mkdir(exist_ok=True)
        _RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    if not all(row["agrees"] for row in rows):
        sys.exit(1)
    if any(lacking):
        sys.exit(2)


def _serving(names: list[str], seconds: float, rows: list[dict[str, Any]]) -> str:
    """Adds the rows of models that are served; returns what the machine lacks for it."""
    try:
        # As an endpoint that asks for a GPU would be refused.
        devices.choose(ExecutionSettings(devices=(0,)))
        with tempfile.TemporaryDirectory() as folder:
            models = [build(name, Path(folder)) for name in names]
            rows += [row for model in models for row in measure(model, seconds)]
    except ProviderMissing as error:
        return error.message
    return ""


def _training(data: Path, epochs: int, rows: list[dict[str, Any]]) -> str:
    """Adds the rows of the training; returns what the machine lacks for it, or nothing."""
    try:
        for row in gpu_training.measure(data, epochs=epochs):
            print(json.dumps(row), flush=True)
            rows.append(row)
    except FailedPrecondition as error:
        return error.message
    return ""


def measure(model: Model, seconds: float) -> Iterator[dict[str, Any]]:
    """A row for each way to run the model and each size of batch; the CPU first.

    Raises ProviderMissing where CUDA does not load. What else a variant lacks is printed.
    """
    batches = {rows: _batch(model, rows) for rows in _ROWS}
    wanted: dict[int, Array] = {}
    spent: dict[int, float] = {}
    for how, execution in {"cpu": {}, **_VARIANTS}.items():
        try:
            session = _load(model, on_cpu=how == "cpu", **execution)
        except LeptonError as error:
            if how == "cuda":
                raise
            sys.stderr.write(f"{model.name} with {how}: {error.message}\n")
            continue
        for rows, batch in batches.items():
            output, taken = _time(session, batch, seconds)
            wanted.setdefault(rows, output)
            spent.setdefault(rows, taken)
            difference = float(np.abs(output - wanted[rows]).max())
            row = {
                "model": model.name,
                "how": how,
                "provider": session.placement.provider,
                "rows": rows,
                "ms": round(1000 * taken, 3),
                "rows_per_second": round(rows / taken, 1),
                "times_cpu": round(spent[rows] / taken, 2),
                "difference": difference,
                "agrees": difference <= _TOLERANCE * float(np.abs(wanted[rows]).max()),
            }
            print(json.dumps(row), flush=True)
            yield row
        session.close()


def build(name: str, folder: Path) -> Model:
    """Writes one of the models, its weights random."""
    path = folder / name / "model.onnx"
    path.parent.mkdir()
    if name == "resnet50":
        return Model(name, resnet.build(path), (3, resnet.SIDE, resnet.SIDE))
    if name == "mlp":
        path.write_bytes(_mlp())
        return Model(name, path, (784,))
    if name == "cnn":
        path.write_bytes(_cnn())
        return Model(name, path, (1, 28, 28))
    raise SystemExit(f"there is no model '{name}'; use mlp, cnn, resnet50")


def _load(model: Model, *, on_cpu: bool, **execution: bool) -> Any:
    settings = ModelSettings(
        BatchingSettings(max_rows=max(_ROWS), preferred_rows=_ROWS),
        ExecutionSettings(isolation=Isolation.SHARED, **execution),
    )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        if on_cpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        return onnx_runtime.load(model.path, settings, trial_seconds=_TRIAL_SECONDS)
    finally:
        if visible is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible


def _batch(model: Model, rows: int) -> bytes:
    return np.random.default_rng(1).standard_normal((rows, *model.row), np.float32).tobytes()


def _time(session: Any, batch: bytes, seconds: float) -> tuple[Array, float]:
    """The output of a batch, and the median seconds from bytes to arrays in memory."""
    tail = session.signature.inputs[0].shape[1:]
    rows = len(batch) // (4 * int(np.prod(tail)))
    times = []
    end = time.perf_counter() + seconds
    # The first runs of a size are slower: they plan, and allocate.
    while len(times) < 5 or time.perf_counter() < end:
        began = time.perf_counter()
        (output,) = session.run(session.join([[batch]], rows, (tail,)))
        times.append(time.perf_counter() - began)
    return np.array(output), float(np.median(times[2:]))


def _mlp() -> bytes:
    """784-128-128-10."""
    weights, nodes, value = _Weights(), [], "images"
    for index, (rows, columns) in enumerate(((784, 128), (128, 128), (128, 10))):
        out = "logits" if index == 2 else f"sum{index}"
        nodes.append(helper.make_node("Gemm", [value, *weights.layer((rows, columns))], [out]))
        if index < 2:
            nodes.append(helper.make_node("Relu", [out], [f"h{index}"]))
            value = f"h{index}"
    return _model(nodes, weights, [784])


def _cnn() -> bytes:
    """Two convolutions with pooling, two dense layers; 28 x 28 images."""
    weights, nodes, value = _Weights(), [], "images"
    for index, (inside, outside) in enumerate(((1, 32), (32, 64))):
        kernel, bias = weights.layer((outside, inside, 3, 3), bias=outside)
        nodes += [
            helper.make_node("Conv", [value, kernel, bias], [f"c{index}"], pads=[1] * 4),
            helper.make_node("Relu", [f"c{index}"], [f"r{index}"]),
            helper.make_node(
                "MaxPool", [f"r{index}"], [f"p{index}"], kernel_shape=[2, 2], strides=[2, 2]
            ),
        ]
        value = f"p{index}"
    nodes += [
        helper.make_node("Flatten", [value], ["flat"]),
        helper.make_node("Gemm", ["flat", *weights.layer((3136, 128))], ["dense"]),
        helper.make_node("Relu", ["dense"], ["hidden"]),
        helper.make_node("Gemm", ["hidden", *weights.layer((128, 10))], ["logits"]),
    ]
    return _model(nodes, weights, [1, 28, 28])


class _Weights:
    def __init__(self) -> None:
        self._random = np.random.default_rng(0)
        self.tensors: list[onnx.TensorProto] = []

    def layer(self, shape: tuple[int, ...], bias: int = 0) -> tuple[str, str]:
        """The names of a layer's weights and bias; as many as columns unless said otherwise."""
        fan_in = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
        values = self._random.standard_normal(shape, np.float32) * (2 / fan_in) ** 0.5
        names = f"w{len(self.tensors)}", f"b{len(self.tensors)}"
        arrays = (values.astype(np.float32), np.zeros(bias or shape[1], np.float32))
        for name, array in zip(names, arrays, strict=True):
            self.tensors.append(numpy_helper.from_array(array, name))
        return names


def _model(nodes: list[onnx.NodeProto], weights: _Weights, row: list[int]) -> bytes:
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *row])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 10])],
        weights.tensors,
    )
    opsets = [helper.make_opsetid("", 17)]
    content: bytes = helper.make_model(
        graph, opset_imports=opsets, ir_version=8
    ).SerializeToString()
    return content


if __name__ == "__main__":
    program.run(main)
