"""Credentials as three files that change together.

    identity/
      cert.pem -> ..current/cert.pem     leaf, then intermediate
      key.pem  -> ..current/key.pem
      ca.pem   -> ..current/ca.pem       the roots to trust
      ..current -> ..1f3a9c              replaced by one rename
      ..1f3a9c/{cert,key,ca}.pem

This is how Kubernetes lays out the secrets it mounts, and what Envoy's file SDS follows with
``watched_directory`` set to ``identity``: it never reads a key beside another key's certificate.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from pathlib import Path

from lepton_mesh.durable import create_private
from lepton_mesh.pki import Credentials

CERTIFICATE = "cert.pem"
KEY = "key.pem"
TRUST_BUNDLE = "ca.pem"
_CURRENT = "..current"


def save(directory: Path, credentials: Credentials) -> None:
    """Replaces what ``directory`` holds, at once; files get mode 0600, directories 0700."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    generation = directory / f"..{secrets.token_hex(8)}"
    generation.mkdir(mode=0o700)
    contents = {
        CERTIFICATE: credentials.certificate_chain_pem,
        KEY: credentials.private_key_pem,
        TRUST_BUNDLE: credentials.trust_bundle_pem,
    }
    for name, content in contents.items():
        create_private(generation / name, content)
    _point(directory / _CURRENT, generation.name)
    for name in contents:
        if not (directory / name).is_symlink():
            _point(directory / name, f"{_CURRENT}/{name}")
    for old in directory.glob("..*"):
        if old.is_dir() and not old.is_symlink() and old != generation:
            shutil.rmtree(old, ignore_errors=True)


def load(directory: Path) -> Credentials | None:
    """What ``directory`` holds, not verified; None if a file is missing.

    Plain files, as another authority may write them, are read as well.
    """
    # The generation is looked up once, so that all three are of the same one.
    with contextlib.suppress(OSError):
        directory = directory / (directory / _CURRENT).readlink()
    try:
        return Credentials(
            private_key_pem=(directory / KEY).read_bytes(),
            certificate_chain_pem=(directory / CERTIFICATE).read_bytes(),
            trust_bundle_pem=(directory / TRUST_BUNDLE).read_bytes(),
        )
    except FileNotFoundError:
        return None


def _point(link: Path, target: str) -> None:
    """Makes ``link`` a symbolic link to ``target``, in place of whatever it was."""
    new = link.with_name(f"{link.name}.{secrets.token_hex(4)}")
    new.symlink_to(target)
    new.replace(link)
