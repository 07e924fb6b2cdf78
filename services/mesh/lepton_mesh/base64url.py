"""base64url without padding, as JOSE writes bytes (RFC 7515 section 2)."""

from __future__ import annotations

import base64


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Raises ValueError for what :func:`encode` never gives."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
