"""The stack's hand on the authority: what `python -m lepton_auth init, issue, join-token` do.

The stack owns auth's state directory, so it asks nobody, and auth need not be running.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from lepton_auth import offline
from lepton_auth.accounts import FIRST_WORKSPACE
from lepton_auth.config import AuthSettings
from lepton_auth.first_admin import FIRST_ADMIN
from lepton_local.home import Home
from lepton_local.tls_files import TlsFiles
from lepton_mesh import credential_files
from lepton_mesh.durable import write_private
from lepton_mesh.errors import LeptonError


def supervisor_files(home: Home) -> TlsFiles:
    """The supervisor's own certificate; etcd takes it for its root user."""
    return TlsFiles.of(home.service("supervisor"))


class Authority:
    """Issues certificates and join tokens for one stack.

    Attributes:
        files: The supervisor's own certificate, once issued.
        user: The first admin.
        password: Its password when it was made just now; empty otherwise.
    """

    def __init__(self, home: Home, settings: AuthSettings) -> None:
        self._home = home
        self._settings = settings
        self.files = supervisor_files(home)
        self.user = FIRST_ADMIN
        self.password = ""

    @classmethod
    def of(cls, home: Home) -> Authority:
        """The authority of a stack that was up before."""
        state = {"LEPTON_STATE_DIR": str(home.service("auth"))}
        return cls(home, AuthSettings.load("auth", state))

    @classmethod
    async def open(cls, home: Home) -> Authority:
        """Makes what is missing of the authority, its database and the first admin."""
        authority = cls.of(home)
        made = json.loads(await offline.init(authority._settings, argparse.Namespace()))
        authority.password = made["password"] or ""
        shutil.copyfile(made["root_certificate"], home.ca_file)
        return authority

    async def issue_own(self) -> None:
        """Issues, or renews, the certificates of etcd and of the supervisor."""
        for service in ("etcd", "supervisor"):
            request = _request(service, out=self._home.service(service))
            await offline.issue(self._settings, request)

    async def reset_password(self) -> str:
        """Gives the first admin a new password, whether auth runs or not; returns it."""
        return await offline.reset_password(self._settings, argparse.Namespace(user=self.user))

    async def create_api_key(self, display_name: str) -> str:
        """A new API key of the first admin; returns its secret."""
        request = argparse.Namespace(
            user=self.user, workspace=FIRST_WORKSPACE, display_name=display_name
        )
        return await offline.api_key(self._settings, request)

    async def write_join_token(
        self, service: str, dns_names: Sequence[str] = (), ip_addresses: Sequence[str] = ()
    ) -> Path:
        """Writes a one-time join token for a service, readable by its owner only.

        Args:
            service: One that joins by token.
            dns_names: Those by which users call it: the gateway only.
            ip_addresses: The same. A certificate that it holds with others is removed.

        Returns:
            The token's file.
        """
        request = _request(service, dns_names, ip_addresses)
        token = await offline.join_token(self._settings, request)
        directory = self._home.service(service)
        path = directory / "join-token"
        await asyncio.to_thread(_replace_private, path, token.encode())
        await asyncio.to_thread(_keep_if_named, directory / "identity", dns_names, ip_addresses)
        return path


def _keep_if_named(identity: Path, dns_names: Sequence[str], ip_addresses: Sequence[str]) -> None:
    """Removes a certificate with other names: as long as it is valid, nobody asks for another."""
    held = credential_files.load(identity)
    if held is None:
        return
    try:
        names = held.names
    except (ValueError, LeptonError):
        return  # its holder finds it invalid, and joins anew
    if {*names.dns_names, *names.ip_addresses} != {*dns_names, *ip_addresses}:
        shutil.rmtree(identity)


def _replace_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    write_private(path, content)


def _request(
    service: str, dns: Sequence[str] = (), ip: Sequence[str] = (), out: Path | None = None
) -> argparse.Namespace:
    return argparse.Namespace(service=service, dns=list(dns), ip=list(ip), out=out, ttl_seconds=0)
