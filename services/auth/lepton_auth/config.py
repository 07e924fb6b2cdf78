"""Settings of the auth service, beside those of every process of the mesh."""

from __future__ import annotations

from pydantic import Field

from lepton_mesh.config import DatabaseSettings


class AuthSettings(DatabaseSettings):
    """Each field is the environment variable ``LEPTON_<FIELD>``."""

    join_listen_port: int = Field(default=0, ge=0, le=65535)
    """Port of the join listener, where newcomers have no certificate yet; 0: the system chooses."""

    certificate_seconds: int = Field(default=3600, ge=2, le=7 * 86400)
    """Life of the certificates that are issued; holders renew at half of it."""

    access_token_seconds: int = Field(default=900, ge=60, le=3600)
    """Life of a user's access token."""
    refresh_token_seconds: int = Field(default=12 * 3600, ge=60)
    """Life of a refresh token that is not traded in."""
    signing_key_days: float = Field(default=30.0, gt=1)
    """How long one key signs access tokens before the next takes over."""

    login_failures: int = Field(default=10, ge=1)
    """Failed logins for one name within ``login_window_seconds`` before it has to wait."""
    login_window_seconds: float = Field(default=300.0, gt=0)
    """How long failed logins are remembered."""
    password_checks: int = Field(default=2, ge=1)
    """Passwords hashed at a time; each takes 64 MiB of memory."""
    password_queue: int = Field(default=64, ge=0)
    """Logins that may wait for a hash; further ones are refused (LOGIN_BUSY)."""

    audit_days: float = Field(default=400.0, gt=0)
    """How long audit events are kept."""
