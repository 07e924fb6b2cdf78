"""What the auth service keeps of certificates: who may join, and what was issued."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from lepton_mesh.pki import Names


@dataclass(frozen=True, slots=True)
class JoinGrant:
    """The right to one first certificate; who shows the secret has it."""

    digest: bytes = field(repr=False)
    """SHA-256 of the secret, which has 256 bits of entropy and so needs no slow hash."""
    names: Names
    """What the certificate will say."""
    expires: datetime
    used: datetime | None = None
    renewable_until: datetime | None = None
    """The certificate is renewed until then; None: for as long as somebody renews it."""


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """A certificate that was issued, or one that was revoked without being known."""

    serial: str
    """Lower-case hex."""
    spiffe_id: str
    """"" when not known."""
    expires: datetime
    revoked: datetime | None = None
    family: str = ""
    """The serial of the first from which it descends by renewals: they are revoked together."""
    renewable_until: datetime | None = None
    """As its join grant said."""
