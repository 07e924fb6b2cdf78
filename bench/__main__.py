"""``make bench``: measures a stack of its own and writes ``bench/results/latest.json``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import ours, program, storage_throughput, training_epochs
from bench.load import find_h2load
from bench.rounds import Row, measure
from bench.stack import fresh_home, machine, random_images, train
from bench.target import IN_FLIGHT, Model
from lepton.client import Client, connect
from lepton_local.stack import bring_down, bring_up

RESULTS = Path("bench/results/latest.json")
EXAMPLE = Path("docs/examples/mnist-cnn.yaml")
"""What is trained for the seconds of an epoch."""


def main() -> None:
    """Runs all of it."""
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--data", type=Path, default=_test_data(), help="folder with MNIST")
    parser.add_argument("--seconds", type=int, default=3, help="of load for each figure")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    find_h2load()
    results = run(options.data, options.seconds, options.repeats)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n")
    print(summary(results))
    print(f"\nwritten to {options.output}")


def run(data: Path | None, seconds: int, repeats: int) -> dict[str, Any]:
    """Starts a stack, measures, stops it; returns everything that was measured."""
    build = Path("build").absolute()
    stack = fresh_home(build)
    folder = data or random_images(build / "bench-images")
    ready = []
    try:
        for _ in range(repeats):
            bring_down(stack)
            record, _ = bring_up(stack, "127.0.0.1", 0, "bench")
            ready.append(record.seconds_to_ready)
        with connect("bench") as lepton:
            files = train(lepton, folder, build / "bench-models")
            models = [Model(name, path) for name, path in files.items()]
            rows = asyncio.run(_serving(lepton, models, seconds, repeats))
            moved = storage_throughput.run(lepton.channel)
    finally:
        bring_down(stack)
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "up_to_ready_seconds": statistics.median(ready),
        "serving": [row.plain() for row in rows],
        "storage": moved,
        "training": training_epochs.run(EXAMPLE, folder) if data else None,
        "targets": _targets(rows, statistics.median(ready)),
    }


async def _serving(lepton: Client, models: list[Model], seconds: int, repeats: int) -> list[Row]:
    async with ours.direct(models, (ours.GRPC,)) as direct:
        with ours.bare(models[0]) as bare:
            targets = [bare, *direct, *ours.gateway(lepton, models)]
            rows = measure(targets, IN_FLIGHT, lambda *_: seconds, lambda _: repeats)
    limits = [ours.InProcess(model) for model in models]
    return rows + measure(limits, IN_FLIGHT, lambda *_: seconds, lambda _: 1)


def summary(results: dict[str, Any]) -> str:
    """The figures for people."""
    heads = f"{'req/s':>11}{'p50 ms':>9}{'p99 ms':>9}"
    lines = [f"{'server':<16}{'model':<7}{'protocol':<14}{'in flight':>9}{heads}"]
    lines += [
        f"{row['server']:<16}{row['model']:<7}{row['protocol']:<14}{row['in_flight']:>9}"
        f"{row['requests_per_second']:>11,.0f}{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}"
        for row in sorted(
            results["serving"], key=lambda row: (row["model"], row["in_flight"], row["server"])
        )
    ]
    lines.append(f"\nup to READY: {results['up_to_ready_seconds']:.1f} s")
    lines += [f"storage: {json.dumps(results['storage'])}"]
    if results["training"]:
        lines += [f"training: {json.dumps(results['training'])}"]
    lines += [f"targets: {json.dumps(results['targets'])}"]
    return "\n".join(lines)


def _targets(rows: list[Row], ready: float) -> dict[str, Any]:
    def ratio(one: tuple[str, str], other: tuple[str, str]) -> float:
        """Median of the rounds' ratios: both sides of a round met the same machine."""
        pairs = zip(_rounds(rows, *one), _rounds(rows, *other), strict=True)
        return round(statistics.median(ours / theirs for ours, theirs in pairs), 2)

    direct = (ours.SERVER, ours.GRPC)
    return {
        "mlp_direct_over_bare_grpc_aio_at_32": ratio(direct, (ours.BARE, ours.GRPC)),
        "mlp_gateway_over_direct_at_32": ratio((ours.SERVER, ours.GATEWAY), direct),
        "up_to_ready_seconds": ready,
    }


def _rounds(rows: list[Row], server: str, protocol: str) -> list[float]:
    """Requests a second of a server with the MLP at 32 in flight, a figure a round."""
    chosen = (server, "mlp", protocol, 32)
    return [
        load.requests_per_second
        for row in rows
        if (row.server, row.model, row.protocol, row.in_flight) == chosen
        for load in row.loads
    ]


def _test_data() -> Path | None:
    folder = os.environ.get("LEPTON_TEST_DATA")
    return Path(folder) / "mnist" if folder else None


if __name__ == "__main__":
    program.run(main)
