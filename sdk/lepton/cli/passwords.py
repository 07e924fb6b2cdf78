"""Passwords: from the environment, or asked for on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def password_option(*, twice: bool) -> Callable[[Command], Command]:
    """Adds ``--password``; asked for on stderr, ``twice`` for a new one, when it is not given."""

    def ask(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
        if value is not None or ctx.resilient_parsing:
            return value
        if not sys.stdin.isatty():
            raise click.UsageError("no password; put it in LEPTON_PASSWORD, or use a terminal")
        answer: str = click.prompt("Password", hide_input=True, confirmation_prompt=twice, err=True)
        return answer

    return click.option(
        "--password",
        envvar="LEPTON_PASSWORD",
        callback=ask,
        help="Better in LEPTON_PASSWORD, where other users do not see it; else asked for.",
    )
