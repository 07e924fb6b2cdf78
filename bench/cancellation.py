"""How soon the work of clients who went away is freed, on both adapters of the data port.

    python -m bench.cancellation --rounds 20

generating    a stream whose model generates is cancelled: until the model's last step
half-closed   the same, where the client had said that it would send no more requests
killed        the client's process is killed while it reads: until the model's last step
queued        a unary request that waits behind a slow one is cancelled: until its place in the
              full queue is another's

The times are from the client's cancel, or the end of its process, on one machine. A step's is
known in whole milliseconds, so that one which ended just before counts as 0.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from pydantic import TypeAdapter

from bench import program
from bench.data_plane import OpenGate, data_plane, load_models, protocol
from lepton.oip.v2 import open_inference_pb2 as pb
from lepton_inference.grpc_port import GrpcPort
from lepton_inference.serving import Serving
from lepton_inference.settings import BatchingSettings, Link, ModelSettings, SequenceSettings

SERVICE = "/inference.GRPCInferenceService/"
_STEPS = 65536
_READ = 50
"""Answers that are read before the client goes."""
_ARRIVED_SECONDS = 0.2
"""A request that was sent so long ago has come to the model, also on a busy machine."""
_STILL_SECONDS = 0.2
"""A model that ran no step for so long has stopped."""
_SETTINGS = {
    "counter": ModelSettings(
        sequences=SequenceSettings(feed_back=(Link("y", "x"),), max_steps=_STEPS)
    ),
    "slow": ModelSettings(BatchingSettings(max_rows=1, max_queue=1)),
}

Channel = grpc.aio.Channel


def main() -> None:
    """Prints median and maximum for each adapter and way to go."""
    parser = argparse.ArgumentParser(prog="bench.cancellation")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        asyncio.run(_read(options.read))
    else:
        asyncio.run(_measure(options.rounds))


async def _measure(rounds: int) -> None:
    ways: dict[str, Callable[[str], Awaitable[float]]] = {
        "generating": _generating,
        "half-closed": lambda address: _generating(address, half_close=True),
        "killed": _killed,
        "queued": _queued,
    }
    with tempfile.TemporaryDirectory(prefix="lepton-") as directory:
        models = _models(Path(directory))
        for adapter, serve in (("ASGI in Envoy", _asgi), ("grpc.aio", _grpc)):
            async with serve(models) as address:
                for way, measure in ways.items():
                    times = [max(await measure(address), 0.0) for _ in range(rounds)]
                    print(
                        f"{adapter:<14}{way:<13}median {statistics.median(times):>6.1f} ms  "
                        f"max {max(times):>6.1f} ms",
                        flush=True,
                    )


@contextlib.asynccontextmanager
async def _asgi(models: dict[str, Path]) -> AsyncIterator[str]:
    async with data_plane(models) as (address, _):
        yield address


@contextlib.asynccontextmanager
async def _grpc(models: dict[str, Path]) -> AsyncIterator[str]:
    serving = Serving()
    load_models(serving, models, ModelSettings())
    port = GrpcPort(protocol(serving), OpenGate(serving), lambda _: None, 64 << 20)
    address = await port.start(None, "127.0.0.1", 0)
    try:
        yield address
    finally:
        await port.stop(1)


# --- Ways to go --------------------------------------------------------------------------


async def _generating(address: str, half_close: bool = False) -> float:
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(SERVICE + "ModelStreamInfer")()
        await call.write(_request("counter", np.zeros((1, 1), np.int64)))
        if half_close:
            await call.done_writing()
        for _ in range(_READ):
            await call.read()
        gone = time.time()
        call.cancel()
        return await _last_step(address) - 1e3 * gone


async def _killed(address: str) -> float:
    client = await asyncio.to_thread(
        subprocess.Popen,
        [sys.executable, "-m", "bench.cancellation", "--read", address],
        stdout=subprocess.PIPE,
        start_new_session=True,  # a terminal's Ctrl-C is for the program that ends this one
    )
    assert client.stdout is not None
    try:
        await asyncio.to_thread(client.stdout.readline)
    finally:
        client.kill()
        # Until then its sockets may be open: taking a process apart takes the system a while.
        await asyncio.to_thread(client.wait)
    gone = time.time()
    return await _last_step(address) - 1e3 * gone


async def _read(address: str) -> None:
    """Reads a stream until it is killed, and says when it has begun to."""
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(SERVICE + "ModelStreamInfer")()
        await call.write(_request("counter", np.zeros((1, 1), np.int64)))
        for number in range(_STEPS):
            await call.read()
            if number == _READ:
                print("reading", flush=True)


async def _queued(address: str) -> float:
    async with grpc.aio.insecure_channel(address) as channel:
        infer = channel.unary_unary(SERVICE + "ModelInfer")
        body = _request("slow", np.ones((1, 1), np.float32))
        runs = asyncio.ensure_future(infer(body))
        await asyncio.sleep(_ARRIVED_SECONDS)
        waits = infer(body)
        await asyncio.sleep(_ARRIVED_SECONDS)
        gone = time.perf_counter()
        waits.cancel()
        while True:
            assert not runs.done(), "the model was too quick"
            asked = time.perf_counter()
            try:
                # Answered, it had the place; how long a refusal takes says nothing.
                await infer(body)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, error
            else:
                break
        await runs
        return 1e3 * (asked - gone)


async def _last_step(address: str) -> float:
    """When the counter ran its last step, Unix milliseconds, once it has stopped."""
    asked = pb.ModelStatisticsRequest(name="counter").SerializeToString()
    async with grpc.aio.insecure_channel(address) as channel:
        ask = channel.unary_unary(SERVICE + "ModelStatistics")
        last = -1
        while True:
            (found,) = pb.ModelStatisticsResponse.FromString(await ask(asked)).model_stats
            if found.inference_count == last:
                return float(found.last_inference)
            last = found.inference_count
            await asyncio.sleep(_STILL_SECONDS)


def _request(model: str, value: np.ndarray) -> bytes:
    return pb.ModelInferRequest(
        model_name=model,
        inputs=[
            pb.ModelInferRequest.InferInputTensor(
                name="x", datatype="INT64" if model == "counter" else "FP32", shape=value.shape
            )
        ],
        raw_input_contents=[value.tobytes()],
    ).SerializeToString()


# --- Models ------------------------------------------------------------------------------


def _models(directory: Path) -> dict[str, Path]:
    files = {}
    for name, graph in (("counter", _counter()), ("slow", _slow())):
        files[name] = directory / f"{name}.onnx"
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.save(model, files[name])
        settings = TypeAdapter(ModelSettings).dump_json(_SETTINGS[name])
        files[name].with_suffix(".json").write_bytes(settings)
    return files


def _counter() -> onnx.GraphProto:
    """``y = x + 1``."""
    return helper.make_graph(
        [helper.make_node("Add", ["x", "one"], ["y"])],
        "counter",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", 1])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, ["batch", 1])],
        [numpy_helper.from_array(np.array([1], np.int64), "one")],
    )


def _slow() -> onnx.GraphProto:
    """Takes about a second: products of large matrices that ``x`` fills."""
    products = 8
    nodes = [helper.make_node("Expand", ["x", "size"], ["m0"])]
    nodes += [helper.make_node("MatMul", [f"m{n}", "m0"], [f"m{n + 1}"]) for n in range(products)]
    nodes.append(helper.make_node("ReduceMean", [f"m{products}"], ["y"]))
    return helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(np.array([1280, 1280], np.int64), "size")],
    )


if __name__ == "__main__":
    program.run(main)
