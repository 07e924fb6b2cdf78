"""The delay that follows the load beside fixed delays, at 1, 32 and 256 in flight.

    python -m bench.batching mlp=build/bench-models/mlp.onnx cnn=build/bench-models/cnn.onnx

All settings are served at the same time and loaded in turn, round after round, so that what
else the machine does meets all of them.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
from pathlib import Path

from bench import program
from bench.data_plane import data_plane
from bench.load import Load
from bench.ours import GRPC, plain_target
from bench.target import IN_FLIGHT, Model
from lepton_inference.settings import BatchingSettings, ModelSettings

_DELAYS = {
    "none": BatchingSettings(),
    "1 ms": BatchingSettings(max_delay_seconds=0.001),
    "5 ms": BatchingSettings(max_delay_seconds=0.005),
    "adaptive": BatchingSettings(max_delay_seconds=0.005, adaptive_delay=True),
}


def main() -> None:
    """Prints a line for each model, load and delay: medians over the rounds."""
    parser = argparse.ArgumentParser(prog="bench.batching")
    parser.add_argument("models", nargs="+", help="name=file of ONNX models for 28x28 images")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1)
    options = parser.parse_args()
    for pair in options.models:
        name, _, path = pair.partition("=")
        loads = asyncio.run(_measure(Path(path), options.rounds, options.seconds))
        for (in_flight, delay), rounds in loads.items():
            rate = statistics.median(load.requests_per_second for load in rounds)
            p50 = statistics.median(load.p50_ms for load in rounds)
            p99 = statistics.median(load.p99_ms for load in rounds)
            print(
                f"{name:<5}{in_flight:>4} in flight  {delay:<9}{rate:>8,.0f} req/s  "
                f"p50 {p50:>7.2f} ms  p99 {p99:>7.2f} ms",
                flush=True,
            )


async def _measure(path: Path, rounds: int, seconds: float) -> dict[tuple[int, str], list[Load]]:
    model = Model("model", path)
    loads: dict[tuple[int, str], list[Load]] = {}
    async with contextlib.AsyncExitStack() as stack:
        targets = {}
        for delay, batching in _DELAYS.items():
            settings = ModelSettings(batching)
            address, _ = await stack.enter_async_context(
                data_plane({"model": path}, settings=settings)
            )
            targets[delay] = plain_target(model, address, GRPC)
        for in_flight in IN_FLIGHT:
            for number in range(rounds):
                for delay in list(targets)[:: -1 if number % 2 else 1]:
                    load = targets[delay].load(in_flight, seconds)
                    loads.setdefault((in_flight, delay), []).append(load)
    return loads


if __name__ == "__main__":
    program.run(main)
