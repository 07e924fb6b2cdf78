"""``make bench-training``: training beside plain PyTorch; writes bench/results/training.{json,png}.

    python -m bench.training --data <folder> [--only cnn,tabular] [--rounds 5] [--round-seconds 3]

``epochs``: seconds per epoch of each recipe, as its example in docs/examples has it, beside the
best plain PyTorch loop, in alternating rounds of one run (``bench.training_epochs``).
``overhead``: what the platform adds to a job of the mlp and of the cnn, on a stack of its own.
``two_jobs``: two jobs at once on two cores, against one after the other.

A recipe whose data is not below the folder is told, with where to get it; the others are measured.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import program, training_epochs, training_platform
from bench.plot import plot_training
from bench.stack import MODELS, random_images
from lepton.api.storage.v1 import storage_pb2
from lepton.cli.documents import read_mapping
from lepton.client import Client, connect
from lepton_local import steps
from lepton_local.demo.dataset import FILES, DataMissing
from lepton_local.examples.catalogue import EXAMPLES, MNIST
from lepton_local.machine import machine
from lepton_local.own_stack import own_stack

RESULTS = Path("bench/results/training.json")
SPECS = Path("docs/examples")
_PARTS = ("epochs", "overhead", "two_jobs")


def main() -> None:
    """Runs all of it."""
    parser = argparse.ArgumentParser(prog="bench.training")
    parser.add_argument(
        "--data", type=Path, default=_test_data(), help="folder with mnist, adult and so on"
    )
    parser.add_argument("--only", default="", help="recipes, with commas between; all without")
    parser.add_argument("--parts", default=",".join(_PARTS), help="with commas between")
    parser.add_argument("--rounds", type=int, default=training_epochs.ROUNDS)
    parser.add_argument("--round-seconds", type=float, default=training_epochs.ROUND_SECONDS)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.data is None:
        parser.error("give --data: a folder with the folders mnist, adult, reviews, temperatures")
    parts = _names(options.parts, _PARTS, parser)
    recipes = _names(options.only, tuple(specs_by_recipe()), parser)
    results: dict[str, Any] = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(("torch", "onnxruntime")),
    }
    if "epochs" in parts:
        results["epochs"] = epochs(
            options.data, recipes, rounds=options.rounds, round_seconds=options.round_seconds
        )
    if {"overhead", "two_jobs"} & set(parts):
        results |= _on_a_stack(options.data, parts)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(results, indent=2) + "\n")
    plot_training(results, options.output.with_suffix(".png"))
    print(summary(results))
    print(f"\nwritten to {options.output}")


def specs_by_recipe() -> dict[str, Any]:
    """The example that stands for each recipe."""
    recipes = {}
    for example in EXAMPLES:
        recipes[read_mapping(example.spec(SPECS), "recipe")["recipe"]] = example
    return recipes


def epochs(
    data: Path, recipes: tuple[str, ...], *, rounds: int, round_seconds: float
) -> dict[str, Any]:
    """Figures of ``bench.training_epochs`` by recipe; or what is missing for one."""
    measured = {}
    for recipe in recipes:
        example = specs_by_recipe()[recipe]
        _say(f"{recipe}: {example.spec(SPECS)}")
        try:
            example.data.find(data)
        except DataMissing as error:
            measured[recipe] = {"error": error.message}
            continue
        measured[recipe] = training_epochs.run(
            example.spec(SPECS),
            data / example.data.name,
            rounds=rounds,
            round_seconds=round_seconds,
        )
    return measured


def _on_a_stack(data: Path, parts: tuple[str, ...]) -> dict[str, Any]:
    build = Path("build").absolute()
    try:
        MNIST.find(data)
        folder = data / MNIST.name
    except DataMissing:
        folder = random_images(build / "bench-images")
    results: dict[str, Any] = {"jobs_on": folder.name}
    with own_stack(build / "bench-stack", "bench", _say), connect("bench") as lepton:
        specs = _specs(lepton, folder)
        if "overhead" in parts:
            _say("overhead of the platform")
            results["overhead"] = training_platform.overhead(lepton, specs, rounds=5)
        if "two_jobs" in parts:
            _say("two jobs at once, and one after the other")
            results["two_jobs"] = _two_jobs(lepton, specs["cnn"])
    return results


def _specs(lepton: Client, folder: Path) -> dict[str, dict[str, Any]]:
    """Specs of one epoch; the data is pushed."""
    files = {name: folder / name for name in FILES}
    version = steps.push(lepton, "bench", files, format=storage_pb2.DATASET_FORMAT_IDX)
    return {
        recipe: {
            "recipe": recipe,
            "dataset": version.name,
            "model": f"models/{recipe}",
            "hyperparameters": {"epochs": 1},
        }
        for recipe in MODELS
    }


def _two_jobs(lepton: Client, spec: Mapping[str, Any]) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        return {"error": f"two jobs at once need two cores; this machine has {cores}"}
    spec = {**spec, "hyperparameters": {"epochs": 2}}
    return training_platform.two_jobs(lepton, spec, rounds=3)


def summary(results: Mapping[str, Any]) -> str:
    """The figures for people."""
    lines = []
    if "epochs" in results:
        lines.append(f"{'recipe':<18}{'s/epoch':>9}{'best plain':>12}{'faster':>9}  plan")
    for recipe, row in results.get("epochs", {}).items():
        if "error" in row:
            lines.append(f"{recipe:<18}{row['error']}")
            continue
        seconds = row["seconds_per_epoch"]
        plain = min(value for name, value in seconds.items() if name != training_epochs.RECIPE)
        lines.append(
            f"{recipe:<18}{seconds[training_epochs.RECIPE]:>9.2f}{plain:>12.2f}"
            f"{row['times_faster_than_best_plain']:>7.2f} x  {row['recipe_plan']}"
        )
    for recipe, row in results.get("overhead", {}).items():
        lines.append(
            f"{recipe}: {row['submit_to_first_step_seconds']} s from submit to first step, "
            f"{row['last_step_to_registered_seconds']} s from last step to registered, "
            f"{row['together_seconds']} s together ({row['aim']}: "
            f"{'reached' if row['met'] else 'missed'})"
        )
    if row := results.get("two_jobs"):
        lines.append(f"two jobs: {json.dumps(row)}")
    return "\n".join(lines)


def _names(given: str, known: tuple[str, ...], parser: argparse.ArgumentParser) -> tuple[str, ...]:
    names = tuple(name.strip() for name in given.split(",") if name.strip())
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no {', '.join(unknown)}; there are {', '.join(known)}")
    return names or known


def _say(text: str) -> None:
    print(f"==> {text}", file=sys.stderr, flush=True)


def _test_data() -> Path | None:
    folder = os.environ.get("LEPTON_TEST_DATA")
    return Path(folder) if folder else None


if __name__ == "__main__":
    program.run(main)
