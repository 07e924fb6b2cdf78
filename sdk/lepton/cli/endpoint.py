"""``lepton endpoint``: serve models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from lepton.api.inference.v1 import inference_pb2 as pb
from lepton.cli.completion import names_of
from lepton.cli.documents import read_mapping
from lepton.cli.output import (
    confirm,
    moment,
    note,
    output_option,
    show,
    show_list,
    yes_option,
)
from lepton.cli.progress import follow_endpoint
from lepton.cli.session import client
from lepton.client import Client, endpoint_fields, endpoint_from_mapping
from lepton.client.names import endpoint_name

Command = TypeVar("Command", bound=Callable[..., Any])


def _serves(endpoint: pb.Endpoint) -> str:
    """What answers for an endpoint, in a cell of a table."""
    if endpoint.HasField("ensemble"):
        steps = dict.fromkeys(step.endpoint for step in endpoint.ensemble.steps)
        return f"ensemble of {', '.join(steps)}"
    models = [target.resolved_version or target.model_version for target in endpoint.targets]
    if endpoint.HasField("shadow"):
        shadow = endpoint.shadow
        version = shadow.resolved_version or shadow.model_version
        models.append(f"{version} (shadow, {shadow.percent:g}%)")
    if endpoint.response_cache_bytes:
        models.append("cached")
    return ", ".join(models)


def _stands(endpoint: pb.Endpoint) -> str:
    """Where an endpoint stands, in a cell of a table."""
    state = endpoint.State.Name(endpoint.state)
    return f"{state} ({endpoint.activity})" if endpoint.activity else state


_COLUMNS = (
    ("NAME", lambda endpoint: endpoint.name),
    ("STATE", _stands),
    ("MODEL", _serves),
    ("PROVIDER", lambda endpoint: endpoint.execution_provider),
    ("FAILURE", lambda endpoint: endpoint.failure_reason),
    ("CREATED", lambda endpoint: moment(endpoint.create_time)),
)


_MOST = 2**31 - 1
"""What the API's numbers hold; the server has bounds of its own."""
_READY_SECONDS = 180.0
"""How long a command waits: for longer than a model is tried, so that it hears of the outcome."""


@click.group()
def endpoint() -> None:
    """Serve models."""


def _batching_options(command: Command) -> Command:
    command = click.option(
        "--max-queue",
        type=click.IntRange(1, _MOST),
        help="Most requests that wait; further ones are refused; 4096 when never given.",
    )(command)
    command = click.option(
        "--max-delay-us",
        type=click.IntRange(0, _MOST),
        help="Longest wait for others, in microseconds; 0 when never given.",
    )(command)
    return click.option(
        "--max-batch-rows",
        type=click.IntRange(1, _MOST),
        help="Most rows in a batch; 1 turns batching off; 64 when never given.",
    )(command)


def _file_option(command: Command) -> Command:
    return click.option(
        "-f",
        "--file",
        "path",
        type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
        help="The endpoint as YAML or JSON, with everything that the options leave out; - for "
        "standard input.",
    )(command)


def _wait_option(command: Command) -> Command:
    return click.option(
        "--wait/--no-wait", default=True, show_default=True, help="Wait until it is READY."
    )(command)


@endpoint.command()
@click.argument("name")
@click.option(
    "--model",
    "model_version",
    default="",
    shell_complete=names_of("models"),
    help="Version to serve: digits/3 or digits/ALIAS.",
)
@_file_option
@_batching_options
@_wait_option
@output_option
@click.pass_context
def create(
    ctx: click.Context,
    name: str,
    model_version: str,
    path: Path | None,
    max_batch_rows: int | None,
    max_delay_us: int | None,
    max_queue: int | None,
    wait: bool,
    output: str,
) -> None:
    """Serve a model version, or what a file says, under NAME."""
    if not (model_version or path):
        raise click.UsageError("nothing to serve; give --model or -f")
    wanted, _ = _read(path)
    for field, value in _given(max_batch_rows, max_delay_us, max_queue).items():
        setattr(wanted.batching, field, value)
    with client(ctx) as lepton:
        created = lepton.endpoints.create(name, model_version, wanted=wanted)
        show(_ready(lepton, created) if wait else created, output, _COLUMNS)


@endpoint.command()
@click.argument("name", shell_complete=names_of("endpoints"))
@click.option(
    "--model", "model_version", default="", shell_complete=names_of("models"), help="New version."
)
@_file_option
@_batching_options
@_wait_option
@output_option
@click.pass_context
def update(
    ctx: click.Context,
    name: str,
    model_version: str,
    path: Path | None,
    max_batch_rows: int | None,
    max_delay_us: int | None,
    max_queue: int | None,
    wait: bool,
    output: str,
) -> None:
    """Serve something else under NAME, or in another way; no request fails meanwhile.

    Fields that a file names replace the endpoint's; the others stay.
    """
    given = _given(max_batch_rows, max_delay_us, max_queue)
    if not (model_version or path or given):
        raise click.UsageError("nothing to change; give --model, -f or a batching option")
    wanted, fields = _read(path)
    with client(ctx) as lepton:
        if given and not wanted.HasField("batching"):
            wanted.batching.CopyFrom(lepton.endpoints.get(name).batching)
        for field, value in given.items():
            setattr(wanted.batching, field, value)
        changed = lepton.endpoints.update(
            name, model_version=model_version, wanted=wanted, fields=fields
        )
        show(_ready(lepton, changed) if wait else changed, output, _COLUMNS)


@endpoint.command("list")
@output_option
@click.pass_context
def list_endpoints(ctx: click.Context, output: str) -> None:
    """List the endpoints."""
    with client(ctx) as lepton:
        show_list(lepton.endpoints.list(), output, _COLUMNS)


@endpoint.command()
@click.argument("name", shell_complete=names_of("endpoints"))
@output_option
@click.pass_context
def get(ctx: click.Context, name: str, output: str) -> None:
    """Show an endpoint."""
    with client(ctx) as lepton:
        show(lepton.endpoints.get(name), output, _COLUMNS)


@endpoint.command()
@click.argument("name", shell_complete=names_of("endpoints"))
@output_option
@click.pass_context
def load(ctx: click.Context, name: str, output: str) -> None:
    """Serve NAME again, with its aliases resolved anew.

    Where there is no endpoint NAME but a model, an endpoint is made that serves its newest version.
    """
    with client(ctx) as lepton:
        show(lepton.endpoints.load(name), output, _COLUMNS)


@endpoint.command()
@click.argument("name", shell_complete=names_of("endpoints"))
@output_option
@click.pass_context
def unload(ctx: click.Context, name: str, output: str) -> None:
    """Serve NAME no more and free its memory; it stays on record until it is loaded again."""
    with client(ctx) as lepton:
        show(lepton.endpoints.unload(name), output, _COLUMNS)


@endpoint.command()
@click.argument("name", shell_complete=names_of("endpoints"))
@yes_option
@click.pass_context
def delete(ctx: click.Context, name: str, yes: bool) -> None:
    """Stop serving NAME."""
    confirm(f"Stop serving {endpoint_name(name)}?", yes)
    with client(ctx) as lepton:
        lepton.endpoints.delete(name)
    note(f"deleted {endpoint_name(name)}")


def _read(path: Path | None) -> tuple[pb.Endpoint, tuple[str, ...]]:
    """The endpoint in a file, and which of its fields the file names; nothing without a file."""
    if path is None:
        return pb.Endpoint(), ()
    mapping = read_mapping(path, "targets and batching")
    return endpoint_from_mapping(mapping), endpoint_fields(mapping)


def _given(rows: int | None, delay_us: int | None, queue: int | None) -> dict[str, int]:
    options = {"max_batch_rows": rows, "max_delay_us": delay_us, "max_queue": queue}
    return {field: value for field, value in options.items() if value is not None}


def _ready(lepton: Client, endpoint: pb.Endpoint) -> pb.Endpoint:
    if endpoint.unloaded:
        return endpoint
    return follow_endpoint(lepton, endpoint.name, _READY_SECONDS)
