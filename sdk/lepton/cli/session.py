"""The client that a command works with."""

from __future__ import annotations

import click

from lepton.client import Client, connect


def client(ctx: click.Context) -> Client:
    """Opens a client for the profile and workspace named on the command line."""
    return connect(ctx.obj["profile"], workspace=ctx.obj["workspace"])
