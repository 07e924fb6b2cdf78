"""The HTTP filters, in order, and what routes say to them.

    grpc_web         application/grpc-web -> gRPC
    cors             only with ``LEPTON_CORS_ORIGINS``
    rest_body        refuses unknown fields of JSON; only on routes of REST paths, with a body
    transcoder       REST -> gRPC; only on routes of REST paths
    ratelimit        one token bucket; for IssueToken small ones, in all and per address
    ext_authz        API key -> token; only on requests that carry a key
    jwt_authn        refuses what has no valid token, unless the route is public
    router

Filters that are off until a route asks for them are not even built for other requests: a
native call with a token meets grpc_web, ratelimit, jwt_authn and the router.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable
from pathlib import Path

from lepton_gateway.envoy import Json, discovery_response, duration, from_file, typed
from lepton_gateway.envoy.clusters import CONTROL
from lepton_gateway.rest_bodies import MAX_CHECKED_BYTES
from lepton_gateway.upstreams import ROUTING_KEY_HEADER
from lepton_mesh.claims import AUDIENCE, ISSUER

GRPC_WEB = "envoy.filters.http.grpc_web"
CORS = "envoy.filters.http.cors"
REST_BODY = "lepton.rest_body"
TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
RATE_LIMIT = "envoy.filters.http.local_ratelimit"
API_KEY = "envoy.filters.http.ext_authz"
TOKEN = "envoy.filters.http.jwt_authn"  # noqa: S105  a filter's name
ROUTER = "envoy.filters.http.router"

API_KEY_HEADER = "x-api-key"
CHECK_HEADER, CHECK_BODY = "x-lepton-check", "rest-body"
"""Tells the control plane which of the two filters asks."""
MAX_REST_BODY_BYTES = 64 << 20
_JWT = "envoy.extensions.filters.http.jwt_authn.v3."
# The services decide to the second; here clocks of two machines may differ a little.
CLOCK_SKEW_SECONDS = 5


def http_filters(
    descriptor_set: bytes,
    services: Iterable[str],
    token_file: Path,
    requests_per_second: int,
    cors: bool,
) -> list[Json]:
    """The whole chain. ``token_file`` is where :func:`token_verification` is written."""
    chain: list[Json] = [
        {
            "name": GRPC_WEB,
            "typed_config": typed("envoy.extensions.filters.http.grpc_web.v3.GrpcWeb"),
        },
        {"name": REST_BODY, "typed_config": _rest_body(), "disabled": True},
        {
            "name": TRANSCODER,
            "typed_config": transcoder(descriptor_set, services),
            "disabled": True,
        },
        {"name": RATE_LIMIT, "typed_config": rate_limit(requests_per_second)},
        {"name": API_KEY, "typed_config": _api_key(), "disabled": True},
        {
            "name": TOKEN,
            "config_discovery": {
                "config_source": from_file(token_file),
                "type_urls": ["type.googleapis.com/" + _JWT + "JwtAuthentication"],
            },
        },
        {
            "name": ROUTER,
            "typed_config": typed(
                "envoy.extensions.filters.http.router.v3.Router", suppress_envoy_headers=True
            ),
        },
    ]
    if cors:
        chain.insert(
            1, {"name": CORS, "typed_config": typed("envoy.extensions.filters.http.cors.v3.Cors")}
        )
    return chain


def transcoder(descriptor_set: bytes, services: Iterable[str]) -> Json:
    """REST to gRPC as the protos' google.api.http options say; JSON is proto3's own mapping."""
    return typed(
        "envoy.extensions.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
        proto_descriptor_bin=base64.b64encode(descriptor_set).decode(),
        services=list(services),
        convert_grpc_status=True,
        case_insensitive_enum_parsing=True,
        print_options={"stream_newline_delimited": True},
        request_validation_options={
            "reject_unknown_method": True,
            "reject_unknown_query_parameters": True,
        },
        max_request_body_size=MAX_REST_BODY_BYTES,
        max_response_body_size=MAX_REST_BODY_BYTES,
    )


def rate_limit(
    requests_per_second: int, stat_prefix: str = "requests", per_address: int = 0
) -> Json:
    """A token bucket that all workers share: the rate goes on, twice of it may burst.

    With ``per_address``, each client address (of IPv6 its /64) has a bucket of that rate too,
    and what that one refuses takes nothing from the others.
    """
    return typed(
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix=stat_prefix,
        token_bucket=_bucket(requests_per_second),
        **(_by_address(per_address) if per_address else {}),
        filter_enabled=_always("filter_enabled"),
        filter_enforced=_always("filter_enforced"),
        rate_limited_as_resource_exhausted=True,
    )


def token_verification(jwks: Json) -> Json:
    """The file (ECDS) that the token filter is configured by: rotated keys need no restart.

    Every request must carry ``authorization: Bearer <ES256 token of our auth service>``; only a
    route marked with :data:`NO_TOKEN` is excepted. The token travels on: services verify it too.
    """
    provider = {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "local_jwks": {"inline_string": json.dumps(jwks, separators=(",", ":"))},
        # Named, for otherwise a token in the URL (?access_token=) would do as well.
        "from_headers": [{"name": "authorization", "value_prefix": "Bearer "}],
        "forward": True,
        "require_expiration": True,
        "clock_skew_seconds": CLOCK_SKEW_SECONDS,
        # One P-256 verification costs more than all else in the chain.
        "jwt_cache_config": {"jwt_cache_size": 4096, "jwt_max_token_size": 8192},
    }
    return discovery_response(
        typed(
            "envoy.config.core.v3.TypedExtensionConfig",
            name=TOKEN,
            typed_config=typed(
                _JWT + "JwtAuthentication",
                providers={"lepton": provider},
                rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "lepton"}}],
            ),
        )
    )


NO_TOKEN: Json = {TOKEN: typed(_JWT + "PerRouteConfig", disabled=True)}
"""On a route: no token is asked for."""
WITH_API_KEY: Json = {API_KEY: typed("envoy.config.route.v3.FilterConfig", config={})}
"""On a route: the API key is exchanged."""
WITH_BODY: Json = {REST_BODY: typed("envoy.config.route.v3.FilterConfig", config={})}
"""On a route: the JSON body is looked into before it is transcoded."""
TRANSCODED: Json = {TRANSCODER: typed("envoy.config.route.v3.FilterConfig", config={})}
"""On a route: REST becomes gRPC, and the route is chosen anew."""


def cors_policy(origins: Iterable[str]) -> Json:
    """On the virtual host: which pages of other origins may call, and what they may read."""
    return {
        CORS: typed(
            "envoy.extensions.filters.http.cors.v3.CorsPolicy",
            allow_origin_string_match=[{"exact": origin} for origin in origins],
            allow_methods="GET, POST, PATCH, DELETE, OPTIONS",
            allow_headers=(
                "authorization, content-type, x-api-key, x-grpc-web, x-user-agent, grpc-timeout,"
                " traceparent, x-request-id, inference-header-content-length,"
                f" {ROUTING_KEY_HEADER}"
            ),
            expose_headers=(
                "grpc-status, grpc-message, grpc-status-details-bin, x-request-id,"
                " inference-header-content-length"
            ),
            max_age="600",
        )
    }


def _api_key() -> Json:
    return typed(
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        grpc_service={"envoy_grpc": {"cluster_name": CONTROL}, "timeout": "5s"},
        allowed_headers={"patterns": [{"exact": API_KEY_HEADER}]},
        failure_mode_allow=False,
        status_on_error={"code": 503},
    )


def _rest_body() -> Json:
    return typed(
        "envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
        transport_api_version="V3",
        grpc_service={
            "envoy_grpc": {"cluster_name": CONTROL},
            "timeout": "5s",
            "initial_metadata": [{"key": CHECK_HEADER, "value": CHECK_BODY}],
        },
        with_request_body={
            "max_request_bytes": MAX_CHECKED_BYTES,
            "allow_partial_message": True,
            "pack_as_bytes": True,
        },
        # None is of interest, and some are secrets.
        allowed_headers={"patterns": [{"exact": "content-type"}]},
        # It protects nobody: without an answer the transcoder decides alone.
        failure_mode_allow=True,
    )


def _always(key: str) -> Json:
    return {
        "runtime_key": f"lepton.ratelimit.{key}",
        "default_value": {"numerator": 100, "denominator": "HUNDRED"},
    }


def _by_address(requests_per_second: int) -> Json:
    mask = {"v4_prefix_mask_len": 32, "v6_prefix_mask_len": 64}
    return {
        "rate_limits": [{"actions": [{"masked_remote_address": mask}]}],
        # An entry without a value stands for each address that comes, the last 10,000 of them.
        "descriptors": [
            {
                "entries": [{"key": "masked_remote_address"}],
                "token_bucket": _bucket(requests_per_second),
            }
        ],
        "max_dynamic_descriptors": 10_000,
    }


def _bucket(requests_per_second: int) -> Json:
    # Envoy fills no more often than every 50 ms.
    tokens = math.ceil(requests_per_second / 20)
    return {
        "max_tokens": 2 * requests_per_second,
        "tokens_per_fill": tokens,
        "fill_interval": duration(tokens / requests_per_second),
    }
