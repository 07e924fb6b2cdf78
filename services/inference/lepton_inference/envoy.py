"""Envoy's configuration for the data port: mutual TLS in front, Python inside (pyvoy)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyvoy import PyvoyServer

from lepton_inference.gate import PEER_SERIAL
from lepton_inference.open_inference import SERVICES

LISTENER = "oip"
_TYPE = "type.googleapis.com/envoy."
_GOOD_PATH = "([!-$&-~]|%[0-7][0-9A-Fa-f])+"
"""ASCII, escaped or not, which all paths of the protocol are. pyvoy never answers a request
whose path is not UTF-8, or that has none (CONNECT)."""


@dataclass(frozen=True, slots=True)
class MutualTls:
    """Files of the mesh identity. Envoy watches their folder and takes new ones by itself."""

    certificate: Path
    key: Path
    trust_bundle: Path
    trust_domain: str


@dataclass(frozen=True, slots=True)
class DataPort:
    """What the data port's Envoy needs to know."""

    app: str
    """The ASGI application, ``module:attribute``."""
    host: str
    port: int
    """0 lets the system choose; the admin socket tells what it chose."""
    directory: Path
    """Where the configuration and the admin socket go; short, since a socket's path is."""
    tls: MutualTls | None
    max_connection_seconds: float = 900.0

    @property
    def admin_socket(self) -> Path:
        """Envoy's admin interface; only this process' user reaches it."""
        return self.directory / "admin.sock"


def write_config(port: DataPort) -> Path:
    """Writes the configuration, and the files it names; returns its path."""
    if port.tls is not None:
        _write_secrets(port.directory, port.tls)
    path = port.directory / "envoy.json"
    path.write_text(json.dumps(_config(port), indent=1))
    return path


def _config(port: DataPort) -> dict[str, Any]:
    chain: dict[str, Any] = {
        "filters": [
            {
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": _connection_manager(port),
            }
        ]
    }
    if port.tls is not None:
        chain["transport_socket"] = _transport_socket(port)
    return {
        "node": {"id": "inference", "cluster": "lepton"},
        "admin": {"address": {"pipe": {"path": str(port.admin_socket), "mode": 0o600}}},
        "static_resources": {
            "listeners": [
                {
                    "name": LISTENER,
                    "address": {"socket_address": {"address": port.host, "port_value": port.port}},
                    # Two processes must never share a port by accident.
                    "enable_reuse_port": False,
                    "filter_chains": [chain],
                }
            ]
        },
    }


def _connection_manager(port: DataPort) -> dict[str, Any]:
    # pyvoy's own generator knows where its module is and how its filter is configured.
    generated = PyvoyServer(port.app, lifespan=True, loop="uvloop").get_envoy_config()
    listener = generated["static_resources"]["listeners"][0]
    manager: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    routes = manager["route_config"]["virtual_hosts"][0]
    routes["routes"] = [
        {
            "match": {"prefix": "/"},
            # Without a route the default of 15 s would end longer inferences and streams.
            "direct_response": {"status": 404},
        }
    ]
    manager |= {
        "stat_prefix": LISTENER,
        "codec_type": "AUTO",
        "server_header_transformation": "PASS_THROUGH",
        "stream_idle_timeout": "0s",
        "request_timeout": "0s",
        "local_reply_config": _local_replies(),
        "common_http_protocol_options": {
            "max_connection_duration": f"{port.max_connection_seconds:.3f}s",
            "idle_timeout": "3600s",
        },
        "http2_protocol_options": {
            "max_concurrent_streams": 1024,
            # One connection brings whole tensors: 64 KiB windows would make it wait.
            "initial_stream_window_size": 1 << 20,
            "initial_connection_window_size": 16 << 20,
        },
    }
    manager["http_filters"] = [_path_check(), *manager["http_filters"]]
    if port.tls is not None:
        manager["forward_client_cert_details"] = "SANITIZE_SET"
        manager["set_current_client_cert_details"] = {"uri": True}
        manager["http_filters"] = [_serial_header(), *manager["http_filters"]]
    return manager


def _path_check() -> dict[str, Any]:
    """Lets only good paths through, those of ModelInfer first and without a regular expression."""
    infer = [{"exact": f"/{service}/ModelInfer"} for service in SERVICES]
    paths = [*infer, {"safe_regex": {"regex": _GOOD_PATH}}]
    good = {"or_rules": {"rules": [{"url_path": {"path": path}} for path in paths]}}
    return {
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": _TYPE + "extensions.filters.http.rbac.v3.RBAC",
            "rules": {
                "action": "ALLOW",
                "policies": {"paths": {"permissions": [good], "principals": [{"any": True}]}},
            },
        },
    }


def _local_replies() -> dict[str, Any]:
    """What the path check says, as the application says it of paths that it does not know."""
    message = (
        "there is nothing at this path; the protocol begins at /v2, and names in paths are ASCII, "
        "escaped or not"
    )
    refused = {
        "status_code_filter": {
            "comparison": {
                "op": "EQ",
                "value": {"default_value": 403, "runtime_key": "oip.refused_path"},
            }
        }
    }
    grpc = {
        "header_filter": {
            "header": {"name": "content-type", "string_match": {"prefix": "application/grpc"}}
        }
    }
    return {
        "mappers": [
            {
                "filter": {"and_filter": {"filters": [refused, grpc]}},
                "status_code": 404,
                "body": {"inline_string": message},
            },
            {
                "filter": refused,
                "status_code": 404,
                "body_format_override": {
                    "json_format": {"error": message, "reason": "PATH_UNKNOWN"}
                },
            },
        ]
    }


def _serial_header() -> dict[str, Any]:
    """Hands the serial of the client's certificate on, for the denylist."""
    header = PEER_SERIAL.decode()
    return {
        "name": "envoy.filters.http.header_mutation",
        "typed_config": {
            "@type": _TYPE + "extensions.filters.http.header_mutation.v3.HeaderMutation",
            "mutations": {
                "request_mutations": [
                    # Whatever the client says of itself goes first.
                    {"remove": header},
                    {"append": {"header": {"key": header, "value": "%DOWNSTREAM_PEER_SERIAL%"}}},
                ]
            },
        },
    }


def _transport_socket(port: DataPort) -> dict[str, Any]:
    certificate, validation = _secret_paths(port.directory)

    def secret(name: str, path: Path) -> dict[str, Any]:
        return {"name": name, "sds_config": {"path_config_source": {"path": str(path)}}}

    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": _TYPE + "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
                "tls_certificate_sds_secret_configs": [secret("identity", certificate)],
                "validation_context_sds_secret_config": secret("trust", validation),
            },
        },
    }


def _secret_paths(directory: Path) -> tuple[Path, Path]:
    return directory / "identity.json", directory / "trust.json"


def _write_secrets(directory: Path, tls: MutualTls) -> None:
    certificate, validation = _secret_paths(directory)
    watched = {"path": str(tls.certificate.parent)}
    kind = _TYPE + "extensions.transport_sockets.tls.v3.Secret"
    _write_resource(
        certificate,
        {
            "@type": kind,
            "name": "identity",
            "tls_certificate": {
                "certificate_chain": {"filename": str(tls.certificate)},
                "private_key": {"filename": str(tls.key)},
                "watched_directory": watched,
            },
        },
    )
    _write_resource(
        validation,
        {
            "@type": kind,
            "name": "trust",
            "validation_context": {
                "trusted_ca": {"filename": str(tls.trust_bundle)},
                "watched_directory": watched,
                # A server's name is checked by who calls it; here any member of the mesh may.
                "match_typed_subject_alt_names": [
                    {
                        "san_type": "URI",
                        "matcher": {"prefix": f"spiffe://{tls.trust_domain}/"},
                    }
                ],
            },
        },
    )


def _write_resource(path: Path, resource: dict[str, Any]) -> None:
    path.write_text(json.dumps({"resources": [resource]}, indent=1))
