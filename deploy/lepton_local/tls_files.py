"""Where a process has its certificate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from lepton_mesh import credential_files


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: a certificate and its key, and the authority of whoever calls or is called."""

    certificate: Path
    key: Path
    authority: Path

    @classmethod
    def of(cls, directory: Path) -> Self:
        """Those in the directory of a process."""
        return cls(
            directory / credential_files.CERTIFICATE,
            directory / credential_files.KEY,
            directory / credential_files.TRUST_BUNDLE,
        )
