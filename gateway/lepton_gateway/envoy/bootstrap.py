"""Envoy's bootstrap: the listener, the clusters, and the files that everything else is in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lepton_gateway.envoy import Json, duration, from_file, typed
from lepton_gateway.envoy.access_log import access_log
from lepton_gateway.envoy.clusters import (
    CONNECTION_WINDOW_BYTES,
    STREAM_WINDOW_BYTES,
    cluster,
    control_cluster,
    pipe,
)
from lepton_gateway.envoy.filters import http_filters
from lepton_gateway.envoy.replies import local_replies
from lepton_gateway.envoy.routes import ROUTE_CONFIG
from lepton_gateway.envoy.secrets import downstream_tls
from lepton_gateway.upstreams import UPSTREAMS

ROUTES_FILE = "routes.json"
TOKEN_FILE = "token.json"  # noqa: S105  a file's name; it holds public keys
ACCESS_LOG_FILE = "access.log"


@dataclass(frozen=True, slots=True)
class BootstrapOptions:
    """What the bootstrap depends on, from the settings and the API."""

    host: str
    port: int
    directory: Path
    """Where the files are that Envoy watches."""
    access_log: Path
    control_socket: Path
    admin_socket: Path
    trust_domain: str
    descriptor_set: bytes
    transcoded_services: Iterable[str]
    requests_per_second: int
    cors: bool
    stream_idle_seconds: float
    max_connection_age_seconds: float
    access_log_sample_percent: float


def bootstrap(options: BootstrapOptions) -> Json:
    """The whole of it, ready for ``json.dump``."""
    return {
        "node": {"id": "gateway", "cluster": "lepton"},
        "admin": {"address": pipe(options.admin_socket)},
        "static_resources": {
            "listeners": [_listener(options)],
            "clusters": [
                control_cluster(options.control_socket),
                *(
                    cluster(
                        upstream,
                        options.directory,
                        options.trust_domain,
                        options.max_connection_age_seconds,
                    )
                    for upstream in UPSTREAMS
                ),
            ],
        },
        "overload_manager": {
            "resource_monitors": [
                {
                    "name": "envoy.resource_monitors.global_downstream_max_connections",
                    "typed_config": typed(
                        "envoy.extensions.resource_monitors.downstream_connections.v3"
                        ".DownstreamConnectionsConfig",
                        max_active_downstream_connections=20_000,
                    ),
                }
            ]
        },
    }


def _listener(options: BootstrapOptions) -> Json:
    return {
        "name": "gateway",
        "address": {
            "socket_address": {"address": options.host, "port_value": options.port},
        },
        "per_connection_buffer_limit_bytes": 1 << 20,
        "filter_chains": [
            {
                "transport_socket": downstream_tls(options.directory),
                "transport_socket_connect_timeout": "10s",
                "filters": [
                    {
                        "name": "envoy.filters.network.http_connection_manager",
                        "typed_config": _http_connection_manager(options),
                    }
                ],
            }
        ],
    }


def _http_connection_manager(options: BootstrapOptions) -> Json:
    return typed(
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="gateway",
        codec_type="AUTO",
        server_name="lepton",
        rds={
            "route_config_name": ROUTE_CONFIG,
            "config_source": from_file(options.directory / ROUTES_FILE),
        },
        http_filters=http_filters(
            options.descriptor_set,
            options.transcoded_services,
            options.directory / TOKEN_FILE,
            options.requests_per_second,
            options.cors,
        ),
        local_reply_config=local_replies(),
        access_log=[access_log(options.access_log, options.access_log_sample_percent)],
        # This is the edge: nothing that a user says about where a request comes from is true,
        # and nobody is internal.
        use_remote_address=True,
        internal_address_config={
            "cidr_ranges": [{"address_prefix": "255.255.255.255", "prefix_len": 32}]
        },
        forward_client_cert_details="SANITIZE",
        preserve_external_request_id=True,
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        stream_idle_timeout=duration(options.stream_idle_seconds),
        request_headers_timeout="10s",
        delayed_close_timeout="1s",
        drain_timeout="5s",
        # An old connection is told to go (GOAWAY, or "connection: close" with the next answer),
        # and its running calls end by themselves.
        common_http_protocol_options={
            "idle_timeout": "3600s",
            "max_connection_duration": duration(options.max_connection_age_seconds),
        },
        http1_safe_max_connection_duration=True,
        http2_protocol_options={
            "max_concurrent_streams": 1024,
            "initial_stream_window_size": STREAM_WINDOW_BYTES,
            "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
            "connection_keepalive": {"interval": "60s", "timeout": "20s"},
        },
    )
