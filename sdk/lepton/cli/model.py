"""``lepton model``: the registry."""

from __future__ import annotations

from pathlib import Path

import click

from lepton.cli import model_evaluation, model_explanation
from lepton.cli.completion import names_of
from lepton.cli.output import (
    confirm,
    moment,
    note,
    output_option,
    show,
    show_list,
    size,
    yes_option,
)
from lepton.cli.progress import bytes_bar
from lepton.cli.session import client
from lepton.client.names import model_name

_MODELS = (
    ("NAME", lambda model: model.name),
    ("LATEST", lambda model: model.latest_version.rpartition("/")[2]),
    ("ALIASES", lambda model: ", ".join(sorted(model.aliases))),
    ("CREATED", lambda model: moment(model.create_time)),
)
_VERSIONS = (
    ("NAME", lambda version: version.name),
    ("STATE", lambda version: version.State.Name(version.state)),
    ("SIZE", lambda version: size(version.size_bytes)),
    (
        "METRICS",
        lambda version: "  ".join(
            f"{name}={value:.4f}" for name, value in sorted(version.metrics.items())[:3]
        ),
    ),
    ("DATASET", lambda version: version.lineage.dataset_version),
    ("JOB", lambda version: version.lineage.job),
    ("CREATED", lambda version: moment(version.create_time)),
)


@click.group()
def model() -> None:
    """Models and their versions."""


model.add_command(model_evaluation.evaluation)
model.add_command(model_evaluation.compare)
model.add_command(model_explanation.explain)


@model.command()
@click.argument("name", shell_complete=names_of("models"))
@click.argument("path", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--description", default="", help="Where the model comes from.")
@output_option
@click.pass_context
def push(ctx: click.Context, name: str, path: Path, description: str, output: str) -> None:
    """Register an ONNX file as the next version of a model; the model is made when missing.

    The weights are in the file itself. What it takes and gives is read from it.
    """
    with client(ctx) as lepton, bytes_bar(f"pushing {name}", path.stat().st_size) as update:
        version = lepton.models.push(name, path, description=description, progress=update)
    show(version, output, _VERSIONS)


@model.command("list")
@click.argument("name", required=False, shell_complete=names_of("models"))
@output_option
@click.pass_context
def list_models(ctx: click.Context, name: str | None, output: str) -> None:
    """List the models, or with NAME the versions of one model."""
    with client(ctx) as lepton:
        if name:
            show_list(lepton.models.versions(name), output, _VERSIONS)
        else:
            show_list(lepton.models.list(), output, _MODELS)


@model.command()
@click.argument("name", shell_complete=names_of("models"))
@output_option
@click.pass_context
def get(ctx: click.Context, name: str, output: str) -> None:
    """Show a model (NAME) or a version (NAME/3, NAME/latest, NAME/ALIAS)."""
    with client(ctx) as lepton:
        if "/" in name.removeprefix("models/"):
            show(lepton.models.version(name), output, _VERSIONS)
        else:
            show(lepton.models.get(name), output, _MODELS)


@model.command()
@click.argument("name", shell_complete=names_of("models"))
@click.argument("alias")
@click.argument("version", required=False)
@click.option("--delete", is_flag=True, help="Remove the alias.")
@output_option
@click.pass_context
def alias(
    ctx: click.Context, name: str, alias: str, version: str | None, delete: bool, output: str
) -> None:
    """Point ALIAS of a model at VERSION, such as: lepton model alias digits production 3."""
    if delete == (version is not None):
        raise click.UsageError("give the version that the alias points at, or --delete")
    with client(ctx) as lepton:
        if version is None:
            changed = lepton.models.delete_alias(name, alias)
        else:
            number = f"{model_name(name)}/versions/{version}" if version.isdecimal() else version
            changed = lepton.models.set_alias(name, alias, number)
        show(changed, output, _MODELS)


@model.command()
@click.argument("name", shell_complete=names_of("models"))
@yes_option
@click.pass_context
def delete(ctx: click.Context, name: str, yes: bool) -> None:
    """Delete a model with all its versions and aliases."""
    name = model_name(name)
    confirm(f"Delete {name} with all its versions?", yes)
    with client(ctx) as lepton:
        lepton.models.delete(name)
    note(f"deleted {name}")
