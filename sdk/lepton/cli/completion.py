"""``lepton completion``: a script for the shell, and names from the gateway for it.

The script asks `lepton` itself what may come next, so it need not be made anew when
commands change.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import click
from click.shell_completion import get_completion_class

_SECONDS = 2.0
_MOST_NAMES = 200

Complete = Callable[[click.Context, click.Parameter, str], list[str]]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  eval "$(lepton completion bash)"     in ~/.bashrc
    zsh:   eval "$(lepton completion zsh)"      in ~/.zshrc
    fish:  lepton completion fish | source      in ~/.config/fish/config.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101  # click has all three
    script = kind(ctx.find_root().command, {}, "lepton", "_LEPTON_COMPLETE")
    # Not source(): it starts a bash to ask for its version.
    click.echo(script.source_template % script.source_vars())


def names_of(collection: str) -> Complete:
    """Completes ids of the current workspace's ``datasets``, ``models``, ``jobs`` or ``endpoints``.

    Whatever goes wrong, or takes longer than two seconds, completes nothing and says nothing.
    """

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        try:
            with _limited():
                return [
                    name
                    for name in _names(ctx.find_root(), collection)
                    if name.startswith(incomplete)
                ]
        except Exception:  # a shell prompt is no place for an error
            return []

    return complete


def _names(root: click.Context, collection: str) -> list[str]:
    from lepton.client import connect

    with connect(
        root.params.get("profile") or "", workspace=root.params.get("workspace") or ""
    ) as lepton:
        listed: dict[str, Callable[[], Iterable[Any]]] = {
            "datasets": lepton.data.list,
            "models": lepton.models.list,
            "jobs": lepton.jobs.list,
            "endpoints": lepton.endpoints.list,
        }
        found = islice(listed[collection](), _MOST_NAMES)
        return [each.name.removeprefix(f"{collection}/") for each in found]


@contextmanager
def _limited() -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError

    handler = signal.signal(signal.SIGALRM, late)
    timer = signal.setitimer(signal.ITIMER_REAL, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)
