"""What a shadow, a response cache and an ensemble cost live traffic, in the serving process.

    python -m bench.composition [--seconds 2] [--rounds 5]

A small MLP answers eight callers. Beside it: a shadow of 36 MB that is given every request, with
threads of lower priority and without; the same answers from the response cache; and two copies
of the model asked one after the other, by a caller and by an ensemble. The ways take turns in
each round; the medians of their rounds are printed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import lepton_inference.model
from bench import program
from lepton_inference.adapters import onnx_runtime
from lepton_inference.ensemble import Ensemble, EnsembleStep
from lepton_inference.ensemble_model import EnsembleModel
from lepton_inference.model import LoadedModel, ModelSource
from lepton_inference.serving import Served, Serving, ServingState
from lepton_inference.settings import ModelSettings
from lepton_inference.shadow import Mirror, lower_priority, shadow_settings
from lepton_inference.signature import InferenceRequest, InputTensor

_CALLERS = 8
_PAUSE_SECONDS = 0.0005
"""Between two requests of a caller: without it eight leave a shadow no time at all."""
_SMALL = (784, 128, 128, 784)
_LARGE = (784, 2048, 2048, 1024, 784)

Ask = Callable[[], Awaitable[object]]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="bench.composition")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_run(Path(directory), options.seconds, options.rounds))


async def _run(directory: Path, seconds: float, rounds: int) -> None:
    small, large = directory / "small.onnx", directory / "large.onnx"
    onnx.save(_mlp(_SMALL), small)
    onnx.save(_mlp(_LARGE), large)
    plain = ModelSettings()
    live, second = _load(small, plain), _load(small, plain)
    cached = _load(small, replace(plain, response_cache_bytes=1 << 20))
    shadows = []
    for prepare in (lower_priority, lambda: None):
        lepton_inference.model.lower_priority = prepare
        shadows.append(Mirror(_load(large, shadow_settings(plain), shadow=True), 100, 1e9))
    serving = Serving()
    for name, model in (("first", live), ("second", second)):
        serving.put("w", Served(name, ServingState.READY, models=[model], weights=[1]))
    steps = (
        EnsembleStep("first", {"x": "image"}, {"y": "between"}),
        EnsembleStep("second", {"x": "between"}, {"y": "y"}),
    )
    ensemble = EnsembleModel("both", Ensemble(steps, ("y",)), serving.workspace("w"))

    async def in_turn() -> None:
        _, (batch, first) = await live.infer(_request("x"))
        between = batch.arrays[0][first : first + 1].tobytes()
        await second.infer(_request("x", between))

    ways: dict[str, tuple[Ask, Mirror | None]] = {
        "alone": (lambda: live.infer(_request("x")), None),
        "with a shadow": (lambda: live.infer(_request("x")), shadows[0]),
        "with a shadow of equal priority": (lambda: live.infer(_request("x")), shadows[1]),
        "from the cache": (lambda: cached.infer(_request("x")), None),
        "two models in turn": (in_turn, None),
        "two models as an ensemble": (lambda: ensemble.infer(_request("image")), None),
    }
    found: defaultdict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for _ in range(rounds):
        for name, (ask, mirror) in ways.items():
            live.shadow = None if mirror is None else mirror.bond(live.signature)
            found[name].append(await _drive(ask, seconds))
            live.shadow = None
            # What a shadow has left would run beside the next way.
            while mirror is not None and mirror.model.batcher.waiting:  # noqa: ASYNC110  no event
                await asyncio.sleep(0.05)
    for name, taken in found.items():
        rate, p50, p99 = (statistics.median(column) for column in zip(*taken, strict=True))
        print(f"{name:34}{rate:8.0f} req/s   p50 {p50:.3f} ms   p99 {p99:.2f} ms")
    for name, mirror in zip(("lower", "equal"), shadows, strict=True):
        told = mirror.comparison
        print(f"shadow, {name} priority: {told.compared} compared, {told.dropped} dropped")


async def _drive(ask: Ask, seconds: float) -> tuple[float, float, float]:
    """Requests a second, and the median and 99th percentile of their milliseconds."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def call() -> None:
        while (started := time.perf_counter()) < end:
            await ask()
            times.append(time.perf_counter() - started)
            await asyncio.sleep(_PAUSE_SECONDS)

    await asyncio.gather(*[call() for _ in range(_CALLERS)])
    p50, p99 = np.percentile(times, [50, 99]) * 1e3
    return len(times) / seconds, float(p50), float(p99)


_RAW = np.random.default_rng(1).standard_normal((1, 784)).astype(np.float32).tobytes()


def _request(name: str, raw: bytes = _RAW) -> InferenceRequest:
    return InferenceRequest("m", "", [InputTensor(name, "FP32", (1, 784), raw)])


def _load(path: Path, settings: ModelSettings, *, shadow: bool = False) -> LoadedModel:
    session = onnx_runtime.load(path, settings)
    source = ModelSource("m", "2" if shadow else "1", onnx_runtime.PLATFORM, digest="")
    return LoadedModel(source, session, settings, background=shadow)


def _mlp(widths: tuple[int, ...]) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    nodes, weights, fed = [], [], "x"
    for index, (rows, columns) in enumerate(pairwise(widths)):
        values = rng.standard_normal((rows, columns)).astype(np.float32) / np.sqrt(rows)
        weights.append(numpy_helper.from_array(values.astype(np.float32), f"w{index}"))
        last = index == len(widths) - 2
        made = "y" if last else f"h{index}"
        nodes.append(helper.make_node("MatMul", [fed, f"w{index}"], [made]))
        if not last:
            nodes.append(helper.make_node("Relu", [made], [f"r{index}"]))
        fed = f"r{index}"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "mlp",
        [value("x", TensorProto.FLOAT, ["batch", widths[0]])],
        [value("y", TensorProto.FLOAT, ["batch", widths[-1]])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


if __name__ == "__main__":
    program.run(main)
