"""``python -m lepton_local.demo``: a stack, the main job on it, and its end."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from lepton.client import connect
from lepton_local.demo import job
from lepton_local.demo.dataset import find
from lepton_local.demo.report import Report
from lepton_local.own_stack import own_stack, run_command


@click.command()
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    default=None,
    help="Folder with the four MNIST IDX files.  [default: a public mirror, else bundled digits]",
)
@click.option("--build", type=click.Path(file_okay=False, path_type=Path), default=Path("build"))
@click.option("--recipe", default="cnn", show_default=True)
@click.option("--epochs", default=5, show_default=True)
@click.option("--seed", default=0, show_default=True)
def demo(data: Path | None, build: Path, recipe: str, epochs: int, seed: int) -> None:
    """Run the main job from raw files to predictions, on a stack that it starts and stops."""
    began = time.monotonic()
    report = Report()
    build.mkdir(parents=True, exist_ok=True)
    source = find(data, build, lambda text: click.echo(text, err=True))
    if source.name != "mnist":
        click.echo(f"NOTE: using {source.note}")
    with own_stack(build / "demo-stack", "demo", report.step) as record:
        report.fact(
            "stack", f"ready after {record.seconds_to_ready:.1f} s at https://{record.gateway}"
        )
        with connect("demo") as lepton:
            figures = job.run(lepton, source, job.Settings(recipe, epochs, seed), report)
    figures["total_seconds"] = round(time.monotonic() - began, 1)
    line = json.dumps(figures)
    (build / "demo.json").write_text(line + "\n")
    click.echo(line)


if __name__ == "__main__":
    run_command(demo, "demo")
