"""Storage's settings."""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator

from lepton_mesh.config import DatabaseSettings


class StorageSettings(DatabaseSettings):
    """What the storage service reads at start, besides the mesh's settings."""

    objects_url: str = ""
    """Where objects lie: ``s3://bucket/prefix`` or a directory; default ``<state_dir>/objects``.

    For S3, credentials and region come from the usual ``AWS_`` variables."""
    objects_endpoint: str = ""
    """URL of an S3-compatible store that is not Amazon's; empty for Amazon's."""
    disk_reserve_bytes: int = Field(default=256 << 20, ge=0)
    """Uploads that would leave less than this free on the local disk are refused."""
    upload_lifetime_hours: float = Field(default=24, gt=0)
    """How long an upload may take, and what it ended in stays without being used."""
    maintenance_seconds: float = Field(default=300, gt=0)
    """How often expired uploads and bytes that nothing uses are deleted."""
    io_threads: int = Field(default=8, ge=1, le=256)
    """Threads for files and cryptography."""

    @field_validator("objects_url")
    @classmethod
    def _check_objects_url(cls, value: str) -> str:
        if "://" in value and not value.startswith("s3://"):
            raise ValueError("use s3://bucket/prefix, or the path of a directory")
        return value

    @field_validator("objects_endpoint")
    @classmethod
    def _check_objects_endpoint(cls, value: str, info: ValidationInfo) -> str:
        # A URL that is wrong itself is not in the data.
        if value and not info.data.get("objects_url", "s3://").startswith("s3://"):
            raise ValueError("it would have no effect: LEPTON_OBJECTS_URL is not s3://…")
        return value
