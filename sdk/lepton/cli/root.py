"""The command tree. A command's module is imported when the command runs, not before."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

import click

from lepton import __version__
from lepton.cli.errors import CommandError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_BUILT_IN = {
    "completion": ("lepton.cli.completion:completion", "Print a shell's completion script."),
    "data": ("lepton.cli.data:data", "Push, list, get and delete datasets."),
    "endpoint": ("lepton.cli.endpoint:endpoint", "Serve models."),
    "infer": ("lepton.cli.infer:infer", "Ask an endpoint for predictions."),
    "job": ("lepton.cli.job:job", "Train models."),
    "key": ("lepton.cli.account:key", "Create, list and delete API keys."),
    "login": ("lepton.cli.account:login", "Log in to a gateway and save the profile."),
    "logout": ("lepton.cli.account:logout", "Forget a profile and its credential."),
    "model": ("lepton.cli.model:model", "Look at models and their versions."),
    "user": ("lepton.cli.user:user", "Manage users and their roles."),
    "whoami": ("lepton.cli.account:whoami", "Show who the gateway takes you for."),
}
# Offered by the stack's own package, where that is installed; named here so that help need
# not import it.
_STACK = {
    "doctor": "Explain what the local stack needs and what is missing.",
    "down": "Stop the local stack; its data stays.",
    "logs": "Print the log of one process of the stack.",
    "status": "Show every instance of the stack and its health.",
    "up": "Start the local stack and wait until it is ready.",
}


class _LazyGroup(click.Group):
    """Built-in commands, and those that installed packages offer as ``lepton.commands``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*_BUILT_IN, *_STACK, *_offered()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _BUILT_IN:
            return _load(_BUILT_IN[cmd_name][0])
        if target := _offered().get(cmd_name):
            try:
                return _load(target)
            except ImportError as error:
                if cmd_name not in _STACK:
                    raise CommandError(
                        f"`lepton {cmd_name}` cannot be loaded: {error}", "PACKAGE_MISSING"
                    ) from None
        if cmd_name in _STACK:
            raise CommandError(
                f"`lepton {cmd_name}` is for the local stack, which is not installed; "
                "`pip install '.[local]'` in Lepton's folder",
                "PACKAGE_MISSING",
            )
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # Help comes from the tables, without importing the commands.
        known = {name: text for name, (_, text) in _BUILT_IN.items()} | _STACK
        rows = []
        for name in self.list_commands(ctx):
            if name in known:
                rows.append((name, known[name]))
            elif (command := self.get_command(ctx, name)) is not None:
                rows.append((name, command.get_short_help_str()))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        # Click's own imports every command to ask whether it is hidden; ours are not.
        names = self.list_commands(ctx)
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Click would exit with 1; main() knows better.
            raise ReaderGone from None


class ReaderGone(Exception):  # no error: somebody has seen enough
    """The reader of stdout has closed it."""


def _offered() -> dict[str, str]:
    """Name to ``module:attribute`` of the commands that installed packages offer."""
    # Half of the start-up time of `lepton --version` if it were imported above.
    from importlib.metadata import entry_points

    return {entry.name: entry.value for entry in entry_points(group="lepton.commands")}


def _load(target: str) -> click.Command:
    module, _, attribute = target.partition(":")
    command = getattr(importlib.import_module(module), attribute)
    if not isinstance(command, click.Command):
        raise CommandError(f"{target} is offered by a package but is no command", "PACKAGE_MISSING")
    return command


@click.command(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 usage or bad input, 3 not found, 4 not allowed, "
    "5 unreachable, 130 interrupted.",
)
@click.option("--profile", default="", envvar="LEPTON_PROFILE", help="Saved profile to use.")
@click.option("--workspace", default="", envvar="LEPTON_WORKSPACE", help="Workspace to work in.")
@click.version_option(__version__, prog_name="lepton")
@click.pass_context
def cli(ctx: click.Context, profile: str, workspace: str) -> None:
    """Lepton: data in, models trained, checked, registered, served and watched."""
    ctx.obj = {"profile": profile, "workspace": workspace}
