"""Settings of the inference service, each an environment variable ``LEPTON_<FIELD>``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lepton_mesh.config import DatabaseSettings

NAME = "inference"
"""The service's name in the mesh."""


class InferenceSettings(DatabaseSettings):
    """What the inference service needs beyond every service's settings."""

    oip_port: int = Field(default=0, ge=0, le=65535)
    """The data port, gRPC and REST; 0 lets the system choose."""
    data_plane: Literal["auto", "envoy", "grpc"] = "auto"
    """``envoy``: Envoy with Python inside. ``grpc``: grpc.aio, slower and without REST.
    ``auto``: Envoy where it and a shared libpython are there, else grpc with a warning."""
    max_json_bytes: int = Field(default=8 << 20, ge=1024)
    """The largest JSON in a REST request, bytes; raw tensors after it do not count. Parsing it
    holds up every other request, for half a second at the default."""
    model_trial_seconds: float = Field(default=120.0, gt=0)
    """How long loading and measuring a model may take, seconds; beyond, its endpoint fails with
    ``MODEL_TIMEOUT``."""
    max_bytes_in_flight: int = Field(default=256 << 20, ge=1 << 20)
    """Bytes of request bodies held at once, at Envoy's port of those in several pieces; and
    again of tensors that are copied out of shared memory."""
    shared_memory_regions: int = Field(default=64, ge=0)
    """Shared-memory regions that one caller may have; 0 turns shared memory off."""
    shared_memory_caller_bytes: int = Field(default=1 << 30, ge=1)
    """Bytes of all regions of one caller."""
    shared_memory_bytes: int = Field(default=4 << 30, ge=1)
    """Bytes of all regions of all callers."""
    shared_memory_idle_seconds: float = Field(default=3600.0, gt=0)
    """How long a region is kept that nobody uses."""
    shared_memory_prefix: str = Field(default="", pattern=r"^[!-.0-~]*$")
    """What the names of objects in /dev/shm must begin with to be registered; empty for any.
    Set it where other programs of the same user keep there what no caller should reach."""
