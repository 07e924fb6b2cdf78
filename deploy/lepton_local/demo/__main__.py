"""``python -m lepton_local.demo``: a stack, the main job on it, and its end."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import click

from lepton.client import LeptonError as ClientError
from lepton.client import connect
from lepton_local.demo import job
from lepton_local.demo.dataset import find
from lepton_local.demo.report import Report
from lepton_local.home import Home
from lepton_local.stack import bring_down, bring_up
from lepton_mesh.errors import LeptonError


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
    stack = Home((build / "demo-stack").absolute())
    # Its own profile file: a demo must not change whom the user's commands call.
    os.environ["LEPTON_CONFIG"] = str(stack.path / "config.yaml")
    source = find(data, build, lambda text: click.echo(text, err=True))
    if source.name != "mnist":
        click.echo(f"NOTE: using {source.note}")
    bring_down(stack)
    shutil.rmtree(stack.path, ignore_errors=True)
    report.step("starting the stack")
    try:
        record, _ = bring_up(stack, "127.0.0.1", 0, "demo")
        report.fact(
            "stack", f"ready after {record.seconds_to_ready:.1f} s at https://{record.gateway}"
        )
        with connect("demo") as lepton:
            figures = job.run(lepton, source, job.Settings(recipe, epochs, seed), report)
    finally:
        report.step("stopping the stack")
        bring_down(stack)
    figures["total_seconds"] = round(time.monotonic() - began, 1)
    line = json.dumps(figures)
    (build / "demo.json").write_text(line + "\n")
    click.echo(line)


def main() -> None:
    """Runs the demo; an expected failure is one line on stderr."""
    try:
        demo.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (LeptonError, ClientError, OSError) as error:
        click.echo(f"demo: {error}", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
