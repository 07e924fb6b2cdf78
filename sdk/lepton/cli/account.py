"""``lepton login``, ``logout``, ``whoami`` and ``key``: who calls."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import click

from lepton.api.auth.v1 import auth_pb2 as pb
from lepton.cli.errors import InputError
from lepton.cli.output import (
    confirm,
    moment,
    note,
    output_option,
    show,
    show_list,
    show_plain,
    to_plain,
    yes_option,
)
from lepton.cli.passwords import password_option
from lepton.cli.roles import ROLES, role_name
from lepton.cli.session import client
from lepton.client import (
    Client,
    Profile,
    ProfileError,
    config_path,
    current_profile,
    delete_profile,
    gateway_address,
    save_profile,
)
from lepton.client.errors import translated
from lepton.client.pages import items

_KEYS = (
    ("NAME", lambda key: key.name),
    ("ROLE", lambda key: role_name(key.role)),
    ("DISPLAY NAME", lambda key: key.display_name),
    ("EXPIRES", lambda key: moment(key.expire_time)),
    ("LAST USED", lambda key: moment(key.last_used_time)),
)


@click.command()
@click.argument("address")
@click.option("--user", required=True, help="User id.")
@password_option(twice=False)
@click.option(
    "--ca-file",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    default=None,
    help="Root certificate of the gateway, PEM.  [default: the system's roots]",
)
@click.option("--name", default="default", show_default=True, help="Name of the profile.")
@click.pass_context
def login(
    ctx: click.Context, address: str, user: str, password: str, ca_file: Path | None, name: str
) -> None:
    """Log in to the gateway at ADDRESS (host:port) and save the profile."""
    try:
        address = gateway_address(address)
    except ProfileError as error:
        raise click.UsageError(str(error)) from None
    profile = Profile(address=address, ca_file=str(ca_file or ""), workspace=ctx.obj["workspace"])
    with Client(profile) as lepton:
        request = pb.IssueTokenRequest(
            password=pb.IssueTokenRequest.Password(user=user, password=password),
            workspace=profile.workspace,
        )
        with translated():
            answer = lepton.auth.IssueToken(request, timeout=30)
    workspace = answer.workspace.removeprefix("workspaces/")
    profile = replace(profile, workspace=workspace, refresh_token=answer.refresh_token)
    path = save_profile(name, profile)
    role = role_name(answer.role)
    note(f"logged in as {user} ({role} in {workspace}); profile {name} is in {path}")


@click.command()
@click.argument("name", required=False)
def logout(name: str | None) -> None:
    """Forget the profile NAME, by default the current one, and the credential in it."""
    name = name or current_profile()
    if not name:
        raise ProfileError("no profile is current; nothing to forget", reason="PROFILE_NOT_FOUND")
    if not delete_profile(name):
        raise InputError(f"there is no profile '{name}' in {config_path()}", "PROFILE_NOT_FOUND")
    note(f"forgot profile {name}")


@click.command()
@output_option
@click.pass_context
def whoami(ctx: click.Context, output: str) -> None:
    """Show who the gateway takes you for."""
    columns = (
        ("SUBJECT", lambda caller: caller.subject),
        ("WORKSPACE", lambda caller: caller.workspace),
        ("ROLE", lambda caller: role_name(caller.role)),
        ("TOKEN UNTIL", lambda caller: moment(caller.expire_time)),
    )
    with client(ctx) as lepton:
        with translated():
            caller = lepton.auth.GetCaller(pb.GetCallerRequest(), timeout=30)
        if output == "name":
            click.echo(caller.subject)
        else:
            show(caller, output, columns)


@click.group()
def key() -> None:
    """Create, list and delete API keys."""


@key.command("create")
@click.option("--display-name", default="", help="What it is for.")
@click.option(
    "--role", type=click.Choice(list(ROLES)), default=None, help="At most your own, the default."
)
@click.option(
    "--days", type=click.IntRange(1, 36_500), help="Days that it holds.  [default: for ever]"
)
@click.option(
    "-o",
    "--output",
    type=click.Choice(["secret", "json", "yaml"]),
    default="secret",
    show_default=True,
    help="Format of the result; json and yaml tell the key's name too.",
)
@click.pass_context
def create_key(
    ctx: click.Context, display_name: str, role: str | None, days: int | None, output: str
) -> None:
    """Create an API key; its secret is printed this once, to stdout."""
    request = pb.CreateApiKeyRequest(
        display_name=display_name, role=ROLES[role] if role else pb.ROLE_UNSPECIFIED
    )
    if days is not None:
        request.expire_time.FromSeconds(int(time.time()) + days * 86_400)
    with client(ctx) as lepton, translated():
        created = lepton.auth.CreateApiKey(request, timeout=30)
    note(f"created {created.api_key.name}; keep the secret, it is not shown again")
    if output == "secret":
        click.echo(created.secret)
    else:
        show_plain(to_plain(created), output)


@key.command("list")
@output_option
@click.pass_context
def list_keys(ctx: click.Context, output: str) -> None:
    """List your API keys, without their secrets."""
    with client(ctx) as lepton:
        keys = items(
            lambda token: lepton.auth.ListApiKeys(
                pb.ListApiKeysRequest(page_token=token), timeout=30
            ),
            lambda page: page.api_keys,
        )
        show_list(keys, output, _KEYS)


@key.command("delete")
@click.argument("name")
@yes_option
@click.pass_context
def delete_key(ctx: click.Context, name: str, yes: bool) -> None:
    """Revoke an API key at once."""
    name = name if name.startswith("apiKeys/") else f"apiKeys/{name}"
    confirm(f"Revoke {name}?", yes)
    with client(ctx) as lepton, translated():
        lepton.auth.DeleteApiKey(pb.DeleteApiKeyRequest(name=name), timeout=30)
    note(f"deleted {name}")
