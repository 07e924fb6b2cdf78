"""Roles as people write them."""

from __future__ import annotations

from lepton.api.auth.v1 import auth_pb2 as pb

ROLES = {
    "viewer": pb.ROLE_VIEWER,
    "developer": pb.ROLE_DEVELOPER,
    "admin": pb.ROLE_ADMIN,
}


def role_name(role: int) -> str:
    """``viewer``, ``developer``, ``admin`` or ``none``."""
    return next((name for name, number in ROLES.items() if number == role), "none")
