"""The etcd of the local stack: with which command line, for which users."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path

from lepton_local.tls_files import TlsFiles
from lepton_mesh.discovery import PREFIX
from lepton_mesh.etcd import EtcdClient
from lepton_mesh.etcd.admin import EtcdAdmin

LEPTON_PREFIX = "/lepton/"
JOB_USER = "job"
ROOT_USER = "root"


def etcd_command(
    binary: Path, *, data_dir: Path, client_address: str, files: TlsFiles
) -> list[str]:
    """The command line of a cluster of one, to be run with ``data_dir`` as its directory.

    Clients need a certificate of ``files.authority``; its common name is their
    user. The peer side, which a cluster of one does not use but etcd insists on
    opening, is a Unix socket in the working directory and not a port. The
    gateway from JSON is off: it would call with etcd's own certificate.
    """
    peer = "unix://peer:0"
    client = f"https://{client_address}"
    return [
        str(binary),
        "--name=lepton",
        f"--data-dir={data_dir / 'data'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=lepton={peer}",
        # Read only when the data directory is new: a store made anew gets another
        # cluster id, by which watchers tell it from the one that they knew.
        f"--initial-cluster-token={secrets.token_hex(8)}",
        "--client-cert-auth=true",
        f"--cert-file={files.certificate}",
        f"--key-file={files.key}",
        f"--trusted-ca-file={files.authority}",
        "--enable-grpc-gateway=false",
        "--enable-v2=false",
        "--auto-compaction-mode=periodic",
        "--auto-compaction-retention=1h",
        "--logger=zap",
        "--log-outputs=stderr",
        "--log-level=warn",
    ]


async def provision_auth(client: EtcdClient, services: Iterable[str]) -> None:
    """Creates the users and turns authentication on; may be repeated.

    Each service writes below ``/lepton/services/<service>/`` only and reads
    ``/lepton/``; ``job`` reads ``/lepton/services/``; ``root`` does everything.
    ``client`` must carry a certificate with the common name ``root``.
    """
    admin = EtcdAdmin(client)
    await admin.add_user(ROOT_USER)
    await admin.add_role(ROOT_USER)
    await admin.grant_role(ROOT_USER, ROOT_USER)
    for service in services:
        await _add_user(admin, service)
        await admin.grant_prefix(service, f"{PREFIX}{service}/", "readwrite")
        await admin.grant_prefix(service, LEPTON_PREFIX, "read")
    await _add_user(admin, JOB_USER)
    await admin.grant_prefix(JOB_USER, PREFIX, "read")
    await admin.enable_auth()


async def _add_user(admin: EtcdAdmin, user: str) -> None:
    await admin.add_user(user)
    await admin.add_role(user)
    await admin.grant_role(user, user)
