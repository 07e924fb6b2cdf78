"""``python -m lepton_local.examples``: a stack, every documented example on it, and its end."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import click

from lepton.client import connect
from lepton_local.examples.catalogue import Example, UnknownExample, choose
from lepton_local.examples.results import PASSED, Result, table
from lepton_local.examples.running import run
from lepton_local.machine import machine
from lepton_local.own_stack import own_stack, run_command

_PACKAGES = ("torch", "onnxruntime")


def _say(text: str) -> None:
    click.echo(f"==> {text}", err=True)


def _chosen(only: str, everything: bool) -> list[Example]:
    names = [name.strip() for name in only.split(",") if name.strip()]
    try:
        return choose(names, everything=everything)
    except UnknownExample as error:
        raise click.BadParameter(str(error), param_hint="--only") from None


@click.command()
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with the folders mnist, adult, reviews and temperatures.",
)
@click.option("--only", default="", help="Names of examples, with commas between them.")
@click.option("--all", "everything", is_flag=True, help="Those too that take long.")
@click.option(
    "--specs",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("docs/examples"),
    show_default=True,
    help="Folder with the examples' specs.",
)
@click.option("--build", type=click.Path(file_okay=False, path_type=Path), default=Path("build"))
def examples(data: Path, only: str, everything: bool, specs: Path, build: Path) -> None:
    """Run the documented examples end to end, on a stack that it starts and stops.

    Exit code 1 when one of them did not pass.
    """
    chosen = _chosen(only, everything)
    build.mkdir(parents=True, exist_ok=True)
    target = build / "examples.json"
    results: list[Result] = []
    with own_stack(build / "examples-stack", "examples", _say), connect("examples") as lepton:
        for example in chosen:
            results.append(run(lepton, example, specs, data, _say))
            # After each: what was measured outlives an interruption.
            _write(target, results)
    click.echo(table(results))
    click.echo(f"\nwritten to {target}")
    if any(result.status != PASSED for result in results):
        sys.exit(1)


def _write(target: Path, results: list[Result]) -> None:
    content = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(_PACKAGES),
        "examples": {result.example.name: result.plain() for result in results},
    }
    target.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    run_command(examples, "examples")
