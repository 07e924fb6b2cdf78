"""The manifest key in a PEM file (mode 0600) of the state directory."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from lepton_mesh.config import InvalidConfiguration
from lepton_mesh.durable import write_private
from lepton_mesh.pki import generate_key, key_pem
from lepton_storage.manifest import ManifestKey


def open_manifest_key(path: Path, *, needed: bool = False) -> ManifestKey:
    """Reads the key; makes one if none is ``needed``, for nothing was signed yet.

    Raises InvalidConfiguration.
    """
    if not path.exists():
        if needed:
            raise InvalidConfiguration(
                f"{path} is missing, and dataset versions are signed with it; restore it from "
                "the backup"
            )
        made = generate_key()
        write_private(path, key_pem(made))
        return ManifestKey(made)
    if path.stat().st_mode & 0o077:
        raise InvalidConfiguration(f"{path} can be read by others; run: chmod 600 {path}")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except ValueError:
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidConfiguration(f"{path} is not a P-256 private key; restore it from a backup")
    return ManifestKey(key)
