"""Envoy's configuration as plain dictionaries: one module a piece, no I/O.

The names are Envoy's v3 API (envoyproxy.io/docs, 1.39). What never changes while the process
runs is the bootstrap; Envoy reads the rest from files and takes it over without closing a
connection: endpoints (EDS), routes (RDS), certificates (SDS), signing keys (ECDS).
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_TYPES = "type.googleapis.com/"


def typed(type_name: str, **fields: object) -> Json:
    """A google.protobuf.Any in JSON form."""
    return {"@type": _TYPES + type_name, **fields}


def discovery_response(*resources: Json) -> Json:
    """What a file that Envoy watches holds."""
    return {"resources": list(resources)}


def from_file(path: object) -> Json:
    """A ConfigSource that reads ``path`` and again each time a file is renamed over it."""
    return {"path_config_source": {"path": str(path)}, "resource_api_version": "V3"}


def duration(seconds: float) -> str:
    """A google.protobuf.Duration in JSON form."""
    return f"{seconds:.9f}".rstrip("0").rstrip(".") + "s"
