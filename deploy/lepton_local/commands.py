"""``lepton up``, ``down``, ``status``, ``logs`` and ``doctor``: the local stack."""

from __future__ import annotations

import asyncio
import functools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import click

from lepton.cli.output import show_plain
from lepton_local import log_files, processes
from lepton_local.errors import RequirementMissing, StackDown, StackMissing, StackUnhealthy
from lepton_local.home import SERVICES, Home
from lepton_local.stack import bring_down, bring_up, reset_password
from lepton_mesh.errors import LeptonError

Command = TypeVar("Command", bound=Callable[..., Any])
Given = ParamSpec("Given")
Result = TypeVar("Result")


def _told(command: Callable[Given, Result]) -> Callable[Given, Result]:
    """Makes of what the stack raises what the command line shows: one line, exit code 1."""

    @functools.wraps(command)
    def told(*arguments: Given.args, **options: Given.kwargs) -> Result:
        try:
            return command(*arguments, **options)
        except LeptonError as error:
            raise _Failed(error) from None

    return told


class _Failed(click.ClickException):
    """An error of the stack or of the mesh, which the command tells with its reason."""

    def __init__(self, error: LeptonError) -> None:
        super().__init__(error.message)
        self.reason = error.reason


class _Directory(click.Path):
    """A directory; an empty name, which would be the current one, is refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("it is empty; name a directory", param, ctx)
        return super().convert(value, param, ctx)


def _home_option(command: Command) -> Command:
    return click.option(
        "--home",
        type=_Directory(file_okay=False, path_type=Path),
        default=None,
        help="Directory of the stack.  [default: $LEPTON_HOME, else ~/.local/state/lepton]",
    )(command)


class _Lines(click.IntRange):
    """A number of lines; 0, or ``all``, for every one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if value == "all":
            return 0
        return int(super().convert(value, param, ctx))


def _not_empty(_: click.Context, __: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter("it is empty")
    return value


def _home(path: Path | None) -> Home:
    return Home(path.absolute()) if path else Home.default()


@click.command()
@_home_option
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address users call; 0.0.0.0 and :: stand for all.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8443,
    show_default=True,
    help="Port users call; 0: any free one.",
)
@click.option(
    "--name",
    "names",
    multiple=True,
    help="A further DNS name or address that users call; may be repeated.",
)
@click.option(
    "--profile-name",
    default="local",
    show_default=True,
    callback=_not_empty,
    help="CLI profile to write.",
)
@click.option(
    "--reset-admin-password",
    is_flag=True,
    help="Give user admin a new password and show it, whether the stack is up or not.",
)
@_told
def up(
    home: Path | None,
    host: str,
    port: int,
    names: tuple[str, ...],
    profile_name: str,
    *,
    reset_admin_password: bool,
) -> None:
    """Start the local stack and wait until it is ready."""
    stack = _home(home)
    if reset_admin_password:
        _show_password(*reset_password(stack))
    # Ended in either way before it is ready, it leaves nothing running.
    with processes.handled(signal.SIGTERM, signal.default_int_handler):
        record, profile = bring_up(
            stack, host, port, profile_name, names=names, show_password=_show_password
        )
    if profile is None:
        click.echo(f"already up at https://{record.gateway}")
        return
    click.echo(f"ready after {record.seconds_to_ready:.1f} s")
    click.echo(f"gateway    https://{record.gateway}")
    click.echo(f"ca file    {stack.ca_file}")
    click.echo(f"logs       {stack.logs}")
    click.echo(f"profile    {profile_name}, in {profile}")


def _show_password(user: str, password: str) -> None:
    click.echo(f"admin      user {user}, password {password}")
    click.echo(
        "           shown this once; it is for `lepton login`, then `lepton user set-password`"
    )


@click.command()
@_home_option
@_told
def down(home: Path | None) -> None:
    """Stop the local stack; its data stays."""
    stack = _home(home)
    if not bring_down(stack):
        click.echo(f"nothing is up in {stack.path}", err=True)


@click.command()
@_home_option
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml", "name"]),
    default="table",
    help="Format.",
)
@_told
def status(home: Path | None, output: str) -> None:
    """Show every instance in etcd: health, address, version, certificate; exit 1 unless READY."""
    stack = _home(home)
    record = stack.read()
    if record is None:
        raise StackDown(f"nothing is up in {stack.path}; start it with `lepton up`")
    if not processes.alive(record.supervisor):
        why = f": {record.error}" if record.error else ""
        raise StackDown(f"the stack in {stack.path} is not running{why}; `lepton up` starts it")
    from lepton_local.status import report  # noqa: PLC0415  # grpc takes half a second

    found = asyncio.run(report(stack, record))
    if output == "table":
        click.echo(found.table())
    elif output == "name":
        for seen in found.seen:
            click.echo(seen.instance.instance)
    else:
        show_plain(found.plain(), output)
    if not found.healthy:
        raise StackUnhealthy("not every service is SERVING; `lepton logs SERVICE` tells more")
    if found.state != "READY":
        raise StackUnhealthy(f"the stack is {found.state}; `lepton logs supervisor` tells more")


@click.command()
@click.argument("service", type=click.Choice([*SERVICES, "etcd", "supervisor"]))
@click.option("-f", "--follow", is_flag=True, help="Go on until interrupted.")
@click.option(
    "-n",
    "--lines",
    type=_Lines(min=0),
    default=200,
    show_default=True,
    help="Lines to begin with; 0 or all: everything.",
)
@_home_option
@_told
def logs(service: str, follow: bool, lines: int, home: Path | None) -> None:
    """Print the log of one process of the stack."""
    path = _home(home).log(service)
    try:
        written = path.stat().st_size
        for line in log_files.last_lines(path, lines) if lines else log_files.all_lines(path):
            click.echo(line)
        if follow:
            for text in log_files.follow(path, written):
                click.echo(text, nl=False)
    except FileNotFoundError:
        raise StackMissing(f"no log at {path}; the stack was never up there") from None


@click.command()
@_home_option
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8443,
    show_default=True,
    help="Port that `lepton up` would take.",
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "yaml", "name"]),
    default="table",
    help="Format.",
)
@_told
def doctor(home: Path | None, port: int, output: str) -> None:
    """Explain what the local stack needs and what is missing; exit 1 when something is."""
    from lepton_local.doctor import examine  # noqa: PLC0415  # looks at much

    findings = examine(_home(home), port)
    if output == "table":
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            click.echo(f"{finding.level:<7}  {finding.name:<{width}}  {finding.text}")
    elif output == "name":
        for finding in findings:
            click.echo(finding.name)
    else:
        show_plain([finding.plain() for finding in findings], output)
    if missing := [finding.name for finding in findings if finding.level == "missing"]:
        raise RequirementMissing(
            f"the stack lacks what it needs: {', '.join(missing)}; the remedies are above"
        )
