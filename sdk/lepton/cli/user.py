"""``lepton user``: who may do what."""

from __future__ import annotations

import click
from google.protobuf.field_mask_pb2 import FieldMask

from lepton.api.auth.v1 import auth_pb2 as pb
from lepton.cli.output import confirm, moment, note, output_option, show, show_list, yes_option
from lepton.cli.passwords import password_option
from lepton.cli.roles import ROLES, role_name
from lepton.cli.session import client
from lepton.client.errors import translated
from lepton.client.pages import items

_COLUMNS = (
    ("NAME", lambda user: user.name),
    ("ROLE", lambda user: role_name(user.role)),
    ("DISABLED", lambda user: "yes" if user.disabled else ""),
    ("DISPLAY NAME", lambda user: user.display_name),
    ("CREATED", lambda user: moment(user.create_time)),
)


@click.group()
def user() -> None:
    """Manage users and their roles."""


@user.command()
@click.argument("user_id")
@click.option(
    "--role",
    type=click.Choice(list(ROLES)),
    default="developer",
    show_default=True,
    help="Role in the current workspace.",
)
@click.option("--display-name", default="", help="Shown to people.")
@password_option(twice=True)
@output_option
@click.pass_context
def create(
    ctx: click.Context, user_id: str, role: str, display_name: str, password: str, output: str
) -> None:
    """Create a user with a role in the current workspace."""
    request = pb.CreateUserRequest(
        user_id=user_id,
        user=pb.User(display_name=display_name, password=password),
        role=ROLES[role],
    )
    with client(ctx) as lepton:
        with translated():
            created = lepton.auth.CreateUser(request, timeout=30)
        show(created, output, _COLUMNS)


@user.command("list")
@output_option
@click.pass_context
def list_users(ctx: click.Context, output: str) -> None:
    """List the members of the workspace."""
    with client(ctx) as lepton:
        users = items(
            lambda token: lepton.auth.ListUsers(pb.ListUsersRequest(page_token=token), timeout=30),
            lambda page: page.users,
        )
        show_list(users, output, _COLUMNS)


@user.command("set-role")
@click.argument("user_id")
@click.argument("role", type=click.Choice([*ROLES, "none"]))
@output_option
@click.pass_context
def set_role(ctx: click.Context, user_id: str, role: str, output: str) -> None:
    """Give a user a role in the workspace; `none` removes the user from it."""
    request = pb.SetRoleRequest(user=_user_name(user_id), role=ROLES.get(role, pb.ROLE_UNSPECIFIED))
    with client(ctx) as lepton:
        with translated():
            changed = lepton.auth.SetRole(request, timeout=30)
        show(changed, output, _COLUMNS)


@user.command("set-password")
@click.argument("user_id")
@password_option(twice=True)
@click.pass_context
def set_password(ctx: click.Context, user_id: str, password: str) -> None:
    """Change a user's password."""
    request = pb.UpdateUserRequest(
        user=pb.User(name=_user_name(user_id), password=password),
        update_mask=FieldMask(paths=["password"]),
    )
    with client(ctx) as lepton, translated():
        lepton.auth.UpdateUser(request, timeout=30)
    note(f"changed the password of {user_id}")


@user.command()
@click.argument("user_id")
@yes_option
@click.pass_context
def delete(ctx: click.Context, user_id: str, yes: bool) -> None:
    """Delete a user with its API keys and roles."""
    name = _user_name(user_id)
    confirm(f"Delete {name} with its API keys and roles?", yes)
    with client(ctx) as lepton, translated():
        lepton.auth.DeleteUser(pb.DeleteUserRequest(name=name), timeout=30)
    note(f"deleted {name}")


def _user_name(user_id: str) -> str:
    return user_id if user_id.startswith("users/") else f"users/{user_id}"
