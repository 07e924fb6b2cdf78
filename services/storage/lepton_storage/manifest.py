"""The signed manifest of a dataset version: what it is, in bytes that anyone can check.

Canonical JSON (RFC 8785 for the strings and integers that occur here): sorted keys, no blanks,
UTF-8. Its SHA-256 is the version's digest; the signature is ES256 (RFC 7518 section 3.4) over
the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.hashes import SHA256

from lepton_mesh import base64url
from lepton_storage.errors import ManifestCorrupt
from lepton_storage.records import DataFile, DatasetFormat, DatasetVersion

_SCHEMA = "lepton.dev/dataset-manifest/v1"
_COORDINATE_BYTES = 32


def encode_manifest(format: DatasetFormat, files: Iterable[DataFile]) -> bytes:
    """The same files, paths and format always give the same bytes."""
    entries = [
        {"path": file.path, "sha256": file.blob.sha256, "size_bytes": file.blob.size_bytes}
        for file in sorted(files, key=lambda file: file.path)
    ]
    content = {"files": entries, "format": format.value, "schema": _SCHEMA}
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def manifest_digest(manifest: bytes) -> str:
    """``sha256:<64 hex digits>``."""
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


class ManifestKey:
    """The service's P-256 key for manifests."""

    def __init__(self, key: EllipticCurvePrivateKey) -> None:
        self._key = key

    def sign(self, manifest: bytes) -> str:
        """r|s, each 32 bytes, in base64url without padding."""
        r, s = decode_dss_signature(self._key.sign(manifest, ECDSA(SHA256())))
        raw = r.to_bytes(_COORDINATE_BYTES, "big") + s.to_bytes(_COORDINATE_BYTES, "big")
        return base64url.encode(raw)

    def verify(self, version: DatasetVersion) -> None:
        """Raises ManifestCorrupt unless files, digest and signature belong together."""
        if encode_manifest(version.format, version.files) != version.manifest:
            raise _corrupt(version, "the files are not those of the manifest")
        if manifest_digest(version.manifest) != version.digest:
            raise _corrupt(version, "the digest is another one")
        try:
            raw = base64url.decode(version.signature)
            r = int.from_bytes(raw[:_COORDINATE_BYTES], "big")
            s = int.from_bytes(raw[_COORDINATE_BYTES:], "big")
            self._key.public_key().verify(
                encode_dss_signature(r, s), version.manifest, ECDSA(SHA256())
            )
        except (ValueError, InvalidSignature) as error:
            raise _corrupt(version, "the signature is not by this service's key") from error


def _corrupt(version: DatasetVersion, what: str) -> ManifestCorrupt:
    return ManifestCorrupt(
        f"the manifest of '{version.name}' is not what was signed ({what}); restore the "
        "database and manifest_key.pem from one backup",
        name=version.name,
    )
