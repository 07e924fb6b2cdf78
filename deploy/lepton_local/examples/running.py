"""One example from its files to its figures at the gateway, by the SDK and the gateway only."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lepton.cli.documents import read_mapping
from lepton.cli.progress import count_bar
from lepton.client import Client
from lepton_local import gateway, steps
from lepton_local.demo.dataset import DataMissing
from lepton_local.examples import rows as raw
from lepton_local.examples.catalogue import Example
from lepton_local.examples.results import Result, Run
from lepton_training.spec import parse_spec

_ROWS_A_REQUEST = 32

Say = Callable[[str], None]


def run(lepton: Client, example: Example, specs: Path, data: Path, say: Say) -> Result:
    """Does an example; what goes wrong is told in its result.

    Args:
        lepton: A client of the stack.
        example: Which one.
        specs: The folder with its spec.
        data: The folder with its data's folder.
        say: Told what begins.
    """
    result, began = Result(example), time.monotonic()
    try:
        files = example.data.find(data)
        spec = read_mapping(example.spec(specs), "recipe and dataset")
        say(f"{example.name}: pushing {example.data.name}")
        steps.push(lepton, example.data.name, files, format=example.data.format)
        for seed in example.seeds:
            result.runs.append(_run_seed(lepton, example, _seeded(spec, seed), files, say))
    except DataMissing as error:
        result.error, result.missing = error.message, True
    except Exception as error:  # whatever it is, the other examples are still to run
        result.error = str(error) or type(error).__name__
    result.seconds = time.monotonic() - began
    if result.error:
        say(f"{example.name}: {result.error}")
    return result


def _seeded(spec: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The spec as it stands in its file, but for a seed that is not the default."""
    return {**spec, "seed": seed} if seed else dict(spec)


def _run_seed(
    lepton: Client, example: Example, spec: Mapping[str, Any], files: Mapping[str, Path], say: Say
) -> Run:
    began = time.monotonic()
    parsed = parse_spec(spec, cores=os.cpu_count() or 1)
    say(f"{example.name}: training {parsed.recipe}, seed {parsed.seed}")
    job = steps.train(lepton, spec)
    model = lepton.models.version(job.model_version)
    say(f"{example.name}: deploying {model.name}")
    steps.deploy(lepton, example.name, model.name)
    try:
        rows = raw.read(parsed, files, model)
        say(f"{example.name}: asking the gateway about {len(rows):,} raw test rows")
        with count_bar("asking", len(rows)) as update:
            answers = gateway.ask_grpc(
                steps.asked(lepton, example.name),
                rows.inputs,
                update,
                rows_a_request=_ROWS_A_REQUEST,
            )
    finally:
        lepton.endpoints.delete(example.name)
    metrics = dict(model.metrics)
    return Run(
        seed=parsed.seed,
        model_version=model.name,
        seconds_per_epoch=metrics.pop("seconds_per_epoch"),
        parity_max_abs_error=metrics.pop("parity_max_abs_error"),
        metrics=metrics,
        at_gateway=rows.measure(answers.outputs),
        rows=len(rows),
        seconds=time.monotonic() - began,
    )
