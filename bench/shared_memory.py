"""What shared memory spares a client whose tensors are large.

    python -m bench.shared_memory --megabytes 10

Triton's own clients, one request at a time, against the data plane on loopback; the model adds
up its input, so that there is little else to measure. Prints the median of each way.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tritonclient.grpc
import tritonclient.http
import tritonclient.utils.shared_memory as shm
from onnx import TensorProto, helper

from bench import program
from bench.data_plane import data_plane

_KEY = "/lepton-bench"


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(prog="bench.shared_memory")
    parser.add_argument("--megabytes", type=float, default=10)
    parser.add_argument("--requests", type=int, default=60)
    options = parser.parse_args()
    values = np.random.default_rng(0).random((1, round(options.megabytes * 250_000)), np.float32)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "sum.onnx"
        onnx.save(_sum(values.shape[1]), path)
        asyncio.run(_run(path, values, options.requests))


async def _run(path: Path, values: Any, requests: int) -> None:
    async with data_plane({"sum": path}) as (address, _):
        await asyncio.to_thread(_measure, address, values, requests)


def _measure(address: str, values: Any, requests: int) -> None:
    region = shm.create_shared_memory_region("values", _KEY, values.nbytes)
    try:
        ways = {}
        for name, client in (("gRPC", tritonclient.grpc), ("REST", tritonclient.http)):
            triton = client.InferenceServerClient(address)
            ways[f"{name}, in the message"] = _in_message(client, triton, values)
            if name == "gRPC":
                triton.register_system_shared_memory("values", _KEY, values.nbytes)
            ways[f"{name}, shared memory"] = _shared(client, triton, values, region)
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(requests):  # in turn, so that all have the same company on the machine
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                taken[name].append(time.perf_counter() - started)
        for name, seconds in taken.items():
            print(f"{name:24} {statistics.median(seconds) * 1e3:7.2f} ms")
    finally:
        shm.destroy_shared_memory_region(region)


def _in_message(client: Any, triton: Any, values: Any) -> Callable[[], None]:
    def ask() -> None:
        tensor = client.InferInput("x", list(values.shape), "FP32")
        tensor.set_data_from_numpy(values)
        _check(triton.infer("sum", [tensor]), values)

    return ask


def _shared(client: Any, triton: Any, values: Any, region: Any) -> Callable[[], None]:
    def ask() -> None:
        shm.set_shared_memory_region(region, [values])
        tensor = client.InferInput("x", list(values.shape), "FP32")
        tensor.set_shared_memory("values", values.nbytes)
        _check(triton.infer("sum", [tensor]), values)

    return ask


def _check(result: Any, values: Any) -> None:
    assert np.allclose(result.as_numpy("y"), values.shape[1] / 2, rtol=0.1)


def _sum(columns: int) -> onnx.ModelProto:
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    graph = helper.make_graph(
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)],
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", columns])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [axes],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


if __name__ == "__main__":
    program.run(main)
