"""What a token that was already verified says beyond who the caller is."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import jwt

from lepton_auth.tokens import METHOD_CLAIM, PASSWORD
from lepton_mesh.caller import Caller


def by_password(caller: Caller) -> bool:
    """Whether the caller's token came from a password, and not from an API key."""
    return PASSWORD in (_payload(caller.token).get(METHOD_CLAIM) or ())


def expiry(caller: Caller) -> datetime | None:
    """When the caller's token runs out; None without a token."""
    seconds = _payload(caller.token).get("exp")
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _payload(verified_token: str) -> dict[str, Any]:
    if not verified_token:
        return {}
    return jwt.decode(verified_token, options={"verify_signature": False})
