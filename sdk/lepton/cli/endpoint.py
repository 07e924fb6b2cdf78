"""``lepton endpoint``: serve models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from lepton.api.inference.v1 import inference_pb2 as pb
from lepton.cli.completion import names_of
from lepton.cli.output import moment, note, on_terminal, output_option, show, show_list
from lepton.cli.session import client
from lepton.client import Client
from lepton.client.names import endpoint_name

Command = TypeVar("Command", bound=Callable[..., Any])

_COLUMNS = (
    ("NAME", lambda endpoint: endpoint.name),
    ("STATE", lambda endpoint: endpoint.State.Name(endpoint.state)),
    (
        "MODEL",
        lambda endpoint: ", ".join(
            target.resolved_version or target.model_version for target in endpoint.targets
        ),
    ),
    ("PROVIDER", lambda endpoint: endpoint.execution_provider),
    ("FAILURE", lambda endpoint: endpoint.failure_reason),
    ("CREATED", lambda endpoint: moment(endpoint.create_time)),
)


@click.group()
def endpoint() -> None:
    """Serve models."""


def _batching_options(command: Command) -> Command:
    command = click.option(
        "--max-queue",
        type=click.IntRange(min=1),
        help="Most requests that wait; further ones are refused; 4096 when never given.",
    )(command)
    command = click.option(
        "--max-delay-us",
        type=click.IntRange(min=0),
        help="Longest wait for others, in microseconds; 0 when never given.",
    )(command)
    return click.option(
        "--max-batch-rows",
        type=click.IntRange(min=1),
        help="Most rows in a batch; 1 turns batching off; 64 when never given.",
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
    required=True,
    shell_complete=names_of("models"),
    help="Version to serve: digits/3 or digits/ALIAS.",
)
@_batching_options
@_wait_option
@output_option
@click.pass_context
def create(
    ctx: click.Context,
    name: str,
    model_version: str,
    max_batch_rows: int | None,
    max_delay_us: int | None,
    max_queue: int | None,
    wait: bool,
    output: str,
) -> None:
    """Serve a model version under NAME."""
    with client(ctx) as lepton:
        batching = pb.Batching(
            max_batch_rows=max_batch_rows, max_delay_us=max_delay_us, max_queue=max_queue
        )
        created = lepton.endpoints.create(name, model_version, batching=batching)
        show(_ready(lepton, created) if wait else created, output, _COLUMNS)


@endpoint.command()
@click.argument("name", shell_complete=names_of("endpoints"))
@click.option(
    "--model", "model_version", default="", shell_complete=names_of("models"), help="New version."
)
@_batching_options
@_wait_option
@output_option
@click.pass_context
def update(
    ctx: click.Context,
    name: str,
    model_version: str,
    max_batch_rows: int | None,
    max_delay_us: int | None,
    max_queue: int | None,
    wait: bool,
    output: str,
) -> None:
    """Serve another version under NAME, or batch in another way; no request fails meanwhile."""
    options = {
        "max_batch_rows": max_batch_rows,
        "max_delay_us": max_delay_us,
        "max_queue": max_queue,
    }
    given = {field: value for field, value in options.items() if value is not None}
    if not (model_version or given):
        raise click.UsageError("nothing to change; give --model or a batching option")
    with client(ctx) as lepton:
        batching = lepton.endpoints.get(name).batching if given else None
        for field, value in given.items():
            setattr(batching, field, value)
        changed = lepton.endpoints.update(name, model_version=model_version, batching=batching)
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
@click.pass_context
def delete(ctx: click.Context, name: str) -> None:
    """Stop serving NAME."""
    with client(ctx) as lepton:
        lepton.endpoints.delete(name)
    note(f"deleted {endpoint_name(name)}")


def _ready(lepton: Client, endpoint: pb.Endpoint) -> pb.Endpoint:
    if on_terminal():
        note(f"waiting for {endpoint.name} to be READY")
    return lepton.endpoints.wait(endpoint.name)
