"""Which version of the platform's code runs."""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import lepton_training


def code_version() -> str:
    """Version of the distribution, and a digest of this package's source as it is installed."""
    root = Path(lepton_training.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(path.read_bytes())
    try:
        release = version("lepton-cloud")
    except PackageNotFoundError:
        release = "0"
    return f"{release}+{digest.hexdigest()[:12]}"
