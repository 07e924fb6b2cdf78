"""``lepton job``: train models."""

from __future__ import annotations

import textwrap
from pathlib import Path

import click

from lepton.api.training.v1 import training_pb2 as pb
from lepton.cli.completion import names_of
from lepton.cli.documents import read_mapping
from lepton.cli.errors import InputError, printable
from lepton.cli.output import (
    confirm,
    moment,
    note,
    output_option,
    show,
    show_list,
    tell,
    yes_option,
)
from lepton.cli.progress import follow_job
from lepton.cli.session import client
from lepton.client import (
    Client,
    InvalidRequestError,
    LeptonError,
    LocalCode,
    SpecError,
    push_code,
    spec_from_mapping,
)
from lepton.client.names import job_name

_COLUMNS = (
    ("NAME", lambda job: job.name),
    ("STATE", lambda job: job.State.Name(job.state)),
    (
        "RECIPE",
        lambda job: job.spec.recipe or job.spec.code.entry_point or job.spec.code.module,
    ),
    ("DATASET", lambda job: job.spec.dataset),
    ("PROGRESS", lambda job: f"{job.progress:.0%}"),
    ("MODEL", lambda job: job.model_version or job.spec.model),
    ("FAILURE", lambda job: job.failure_reason),
    ("CREATED", lambda job: moment(job.create_time)),
)

_NOT_UPLOADED = "artifacts/not-uploaded"
"""In place of code that lies in a folder, where a spec is only looked at."""
_RECIPES = (
    ("RECIPE", lambda recipe: recipe.id),
    (
        "HYPERPARAMETERS",
        lambda recipe: " ".join(
            f"{one.name}={one.default_value}" for one in recipe.hyperparameters
        ),
    ),
    ("DATA", lambda recipe: " ".join(f"{one.name}={one.default_value}" for one in recipe.data)),
    ("DESCRIPTION", lambda recipe: recipe.description),
)
_ENDED_BY_ITSELF = (pb.Job.SUCCEEDED, pb.Job.FAILED)


@click.group()
def job() -> None:
    """Train models."""


@job.command()
@click.option(
    "-f",
    "--file",
    "path",
    required=True,
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    help="Job spec, YAML or JSON; - for standard input.",
)
@click.option("--id", "job_id", default="", help="Id of the new job; chosen when not given.")
@click.option("--follow", is_flag=True, help="Show progress, and wait until the job has ended.")
@click.option("--validate-only", is_flag=True, help="Check the spec and create nothing.")
@output_option
@click.pass_context
def create(
    ctx: click.Context, path: Path, job_id: str, follow: bool, validate_only: bool, output: str
) -> None:
    """Queue a job.

    A spec with the user's own code says where it lies: `code: {directory: ./my_package, ...}`. The
    folder is made an archive and uploaded, also with --validate-only; `python: {requirements_file:
    requirements.txt}` is read likewise. Both are found from the spec's own folder.
    """
    base = Path() if str(path) == "-" else path.parent
    local = LocalCode.taken_from(read_mapping(path, "recipe and dataset"), base)
    try:
        spec = spec_from_mapping(local.mapping)
    except SpecError as error:
        raise _with_the_servers_faults(ctx, error, local) from None
    with client(ctx) as lepton:
        if local.directory is not None:
            spec.code.artifact = push_code(lepton.data, local.directory).name
        created = lepton.jobs.create(spec, job_id=job_id, validate_only=validate_only)
        if validate_only:
            note("the spec is valid")
            if output != "table":
                show(created, output, _COLUMNS)
            return
        if follow:
            created = _follow(lepton, created.name)
        show(created, output, _COLUMNS)
        if follow:
            _fail_unless_succeeded(created)


def _with_the_servers_faults(ctx: click.Context, error: SpecError, local: LocalCode) -> SpecError:
    """``error``, and what the server finds wrong in the rest of the spec, if it can be asked."""
    rest = error.rest
    if not isinstance(rest, pb.JobSpec):
        return error
    if local.directory is not None:
        rest.code.artifact = _NOT_UPLOADED
    try:
        with client(ctx) as lepton:
            lepton.jobs.create(rest, validate_only=True)
    except InvalidRequestError as found:
        if found.reason == error.reason:
            return SpecError(f"{error}; in the rest of it, {found.message}")
    except LeptonError:  # without a server, what is known is told
        pass
    return error


@job.command("list")
@output_option
@click.pass_context
def list_jobs(ctx: click.Context, output: str) -> None:
    """List the jobs, newest first."""
    with client(ctx) as lepton:
        show_list(lepton.jobs.list(), output, _COLUMNS)


@job.command()
@click.argument("name", shell_complete=names_of("jobs"))
@output_option
@click.pass_context
def get(ctx: click.Context, name: str, output: str) -> None:
    """Show a job."""
    with client(ctx) as lepton:
        found = lepton.jobs.get(name)
        show(found, output, _COLUMNS)
        if output == "table":
            _explain(found)


@job.command()
@click.argument("name", shell_complete=names_of("jobs"))
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.pass_context
def logs(ctx: click.Context, name: str, follow: bool) -> None:
    """Print a job's log."""
    with client(ctx) as lepton:
        for line in lepton.jobs.logs(name, follow=follow):
            tell(line.text)


@job.command()
@click.argument("name", shell_complete=names_of("jobs"))
@output_option
@click.pass_context
def watch(ctx: click.Context, name: str, output: str) -> None:
    """Show a job's progress until it has ended; exit 1 when it failed."""
    with client(ctx) as lepton:
        ended = _follow(lepton, name)
        show(ended, output, _COLUMNS)
        _fail_unless_succeeded(ended)


@job.command()
@click.argument("name", shell_complete=names_of("jobs"))
@output_option
@click.pass_context
def cancel(ctx: click.Context, name: str, output: str) -> None:
    """Ask a job to stop; one that has ended stays as it is, which is said, and exits with 0."""
    with client(ctx) as lepton:
        found = lepton.jobs.cancel(name)
    show(found, output, _COLUMNS)
    if found.state in _ENDED_BY_ITSELF:
        note(f"{found.name} had ended already, as {pb.Job.State.Name(found.state)}")


@job.command()
@click.argument("name", shell_complete=names_of("jobs"))
@output_option
@click.pass_context
def pause(ctx: click.Context, name: str, output: str) -> None:
    """Make a job give back its cores, memory and GPUs, after a checkpoint."""
    with client(ctx) as lepton:
        show(lepton.jobs.pause(name), output, _COLUMNS)


@job.command()
@click.argument("name", shell_complete=names_of("jobs"))
@output_option
@click.pass_context
def resume(ctx: click.Context, name: str, output: str) -> None:
    """Queue a paused job again; it goes on from its checkpoint."""
    with client(ctx) as lepton:
        show(lepton.jobs.resume(name), output, _COLUMNS)


@job.command()
@click.argument("name", shell_complete=names_of("jobs"))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.pass_context
def checkpoint(ctx: click.Context, name: str, file: Path) -> None:
    """Write a job's checkpoint to FILE, as storage has it.

    `torch.load(FILE, weights_only=True)` reads it. A job that has run for a while has one; one
    that failed keeps it.
    """
    with client(ctx) as lepton:
        found = lepton.jobs.get(name)
        if not found.HasField("checkpoint"):
            raise InputError(f"{found.name} has no checkpoint in storage", "CHECKPOINT_MISSING")
        lepton.data.fetch_artifact(found.checkpoint.artifact, file)
    note(f"wrote {file}, of {moment(found.checkpoint.store_time)}")


@job.command()
@click.argument("name", shell_complete=names_of("jobs"))
@yes_option
@click.pass_context
def delete(ctx: click.Context, name: str, yes: bool) -> None:
    """Delete the record, files and checkpoint of a job that has ended; its models stay."""
    confirm(f"Delete {job_name(name)} with its files?", yes)
    with client(ctx) as lepton:
        lepton.jobs.delete(name)
    note(f"deleted {job_name(name)}")


@job.command()
@click.argument("name", required=False)
@output_option
@click.pass_context
def recipes(ctx: click.Context, name: str | None, output: str) -> None:
    """List the recipes; with NAME, tell what one is and all that can be set in it."""
    with client(ctx) as lepton:
        found = list(lepton.jobs.recipes())
    if name is not None:
        found = [recipe for recipe in found if recipe.id == name]
        if not found:
            raise InputError(
                f"no recipe '{name}'; `lepton job recipes` lists them", "JOB_SPEC_INVALID"
            )
        if output == "table":
            _tell(found[0])
            return
    if output == "name":
        for recipe in found:
            click.echo(recipe.id)
    else:
        show_list(found, output, _RECIPES)


def _tell(recipe: pb.Recipe) -> None:
    """A recipe's card, and its settings."""
    tell(f"{printable(recipe.description)}\n\n{recipe.card}\n")
    for part, settings in (("hyperparameters", recipe.hyperparameters), ("data", recipe.data)):
        for setting in settings:
            default = setting.default_value or "must be given"
            tell(f"{part}.{setting.name}  {setting.type}, {default}")
            tell(textwrap.indent(textwrap.fill(setting.description, 92), "    "))


def _explain(found: pb.Job) -> None:
    """Why it waits, what became of its attempts, what it left, and how it failed."""
    if found.queue_position:
        reason = found.waiting_reason or "about to start"
        note(f"number {found.queue_position} in the queue: {printable(reason)}")
    for attempt in found.history:
        if attempt.reason not in ("", "CANCELLED") and len(found.history) > 1:
            told = f"attempt {attempt.number}, {moment(attempt.start_time)}: {attempt.reason}"
            note(told + (f": {printable(attempt.message)}" if attempt.message else ""))
    if found.HasField("checkpoint"):
        stored = found.checkpoint
        note(f"checkpoint of {moment(stored.store_time)}: {printable(stored.artifact)}")
    if found.failure_message:
        note(found.failure_message)


def _follow(lepton: Client, name: str) -> pb.Job:
    try:
        return follow_job(lepton, name)
    except KeyboardInterrupt:
        note(f"{name} goes on; `lepton job watch` follows it, `lepton job cancel` stops it")
        raise


def _fail_unless_succeeded(ended: pb.Job) -> None:
    """One line that ends in the reason; what the job said last follows it."""
    if ended.state == pb.Job.SUCCEEDED:
        return
    state = pb.Job.State.Name(ended.state)
    lines = [printable(line) for line in ended.failure_message.splitlines() if line]
    what, *more = lines or [""]
    told = f"{ended.name} {state}" + (f": {what.rstrip(':')}" if what else "")
    note(f"lepton: {told} [{ended.failure_reason or state}]")
    for line in more:
        note(line)
    raise click.exceptions.Exit(1)
