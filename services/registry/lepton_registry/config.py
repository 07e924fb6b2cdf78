"""Settings of the registry, beside those of every process of the mesh."""

from __future__ import annotations

from pydantic import Field

from lepton_mesh.config import DatabaseSettings


class RegistrySettings(DatabaseSettings):
    """Each field is the environment variable ``LEPTON_<FIELD>``."""

    storage_timeout_seconds: float = Field(default=10.0, gt=0)
    """How long storage may take to say what an artifact is, to hold it or to let it go."""
    max_message_bytes: int = Field(default=8 << 20, gt=0)
    """Twice what the largest version takes: what is larger is refused before it is parsed."""
