"""Whether unloading gives memory back: a 100 MB model loaded, asked and unloaded again and again.

    python -m bench.memory_return [--cycles 100]

Prints the resident memory of the process that serves, before and after, and writes
``bench/results/memory_return.json``. The exit code is 1 where the end is more than 5 % above the
start. The start is what a server has that serves one small model, and has loaded a large one once.

Two models of that size, because allocators treat them differently: one with a single tensor, and
one with 400 of 256 KB. Both in the server's process and in one of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from bench import program
from lepton_inference.adapters import onnx_runtime
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.settings import ExecutionSettings, Isolation, ModelSettings
from lepton_inference.signature import InferenceRequest, InputTensor

_RESULTS = Path(__file__).parent / "results" / "memory_return.json"
_ALLOWED = 1.05
SHAPES = {"one tensor": (5120, 1), "400 tensors": (256, 400)}
"""The width of a model's layers, and how many it has; 105 MB of weights each."""


def main() -> None:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(prog="bench.memory_return")
    parser.add_argument("--cycles", type=int, default=100)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small = _written(Path(folder, "small.onnx"), layers(4, 1))
        large = {
            name: (_written(Path(folder, f"{width}.onnx"), layers(width, count)), width)
            for name, (width, count) in SHAPES.items()
        }
        rows = asyncio.run(measure(small, large, options.cycles))
    _RESULTS.parent.mkdir(exist_ok=True)
    _RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
    if any(row["ratio"] > _ALLOWED for row in rows):
        sys.exit(1)


async def measure(
    small: Path, large: Mapping[str, tuple[Path, int]], cycles: int
) -> list[dict[str, Any]]:
    """A row for each model and isolation, with MB of resident memory.

    Args:
        small: A model that is served all the time, whose inputs are 4 wide.
        large: By name, models to be loaded and unloaded, with the width of their inputs.
        cycles: How often.
    """
    rows = []
    served = _load(small, Isolation.SHARED)
    await _ask(served, 4)
    for name, (path, width) in large.items():
        for isolation in (Isolation.SHARED, Isolation.OWN_PROCESS):
            await _cycle(path, isolation, width)
            start = resident_mb()
            loaded = 0.0
            for _ in range(cycles):
                loaded = await _cycle(path, isolation, width)
            end = resident_mb()
            rows.append(
                {
                    "model": name,
                    "isolation": isolation.value,
                    "cycles": cycles,
                    "start_mb": round(start, 1),
                    "loaded_mb": round(loaded, 1),
                    "end_mb": round(end, 1),
                    "ratio": round(end / start, 4),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    await served.close()
    return rows


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


async def _cycle(path: Path, isolation: Isolation, width: int) -> float:
    """Loads the model, asks it, unloads it; MB of resident memory in between."""
    model = _load(path, isolation)
    await _ask(model, width)
    loaded = resident_mb()
    await model.close()
    return loaded


def _load(path: Path, isolation: Isolation) -> LoadedModel:
    settings = ModelSettings(execution=ExecutionSettings(isolation=isolation))
    session = onnx_runtime.load(path, settings)
    source = ModelSource("model", "1", onnx_runtime.PLATFORM, digest="")
    return LoadedModel(source, session, settings)


async def _ask(model: LoadedModel, width: int) -> None:
    data = np.ones((16, width), np.float32).tobytes()
    await model.infer(InferenceRequest("model", "", [InputTensor("x", "FP32", (16, width), data)]))


def layers(width: int, count: int) -> bytes:
    """An ONNX model of ``count`` layers of ``width`` x ``width``, each with weights of its own."""
    rng = np.random.default_rng(0)
    names = ["x", *[f"h{index}" for index in range(count - 1)], "y"]
    weights = [
        numpy_helper.from_array(
            rng.standard_normal((width, width), np.float32) / width, f"w{index}"
        )
        for index in range(count)
    ]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", [names[index], f"w{index}"], [names[index + 1]])
            for index in range(count)
        ],
        "layers",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])],
        weights,
    )
    opsets = [helper.make_opsetid("", 21)]
    content: bytes = helper.make_model(
        graph, opset_imports=opsets, ir_version=10
    ).SerializeToString()
    return content


def resident_mb() -> float:
    """Resident memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


if __name__ == "__main__":
    program.run(main)
