"""Routes (RDS): which request goes where, and whether it needs a token.

Envoy takes the first route that matches. REST requests are matched twice: by their own path,
which turns transcoding on, then by the gRPC path that they become. A route that needs a token
has a twin in front of it for requests with an API key, which turns the exchange on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lepton_gateway.envoy import Json, discovery_response, duration, typed
from lepton_gateway.envoy.clusters import CONTROL
from lepton_gateway.envoy.filters import (
    API_KEY_HEADER,
    NO_TOKEN,
    RATE_LIMIT,
    TRANSCODED,
    WITH_API_KEY,
    WITH_BODY,
    cors_policy,
    rate_limit,
)
from lepton_gateway.upstreams import (
    API_UPSTREAMS,
    INTERNAL_METHODS,
    ISSUE_TOKEN,
    OIP_BY_KEY,
    OIP_GRPC_SERVICES,
    OIP_UPSTREAM,
    PUBLIC_METHODS,
    PUBLIC_OIP_PATHS,
    ROUTING_KEY_HEADER,
    package,
    streaming_methods,
)

ROUTE_CONFIG = "gateway"
REST_MATCHES: tuple[Json, ...] = ({"prefix": "/v1/"}, {"path": "/.well-known/jwks.json"})
"""The paths that the API's google.api.http options use (a test compares)."""
# Set by the mesh or by proxies inside it; from a user they would be a lie.
INTERNAL_HEADERS = (
    API_KEY_HEADER,
    "x-lepton-workspace",
    "x-lepton-reason",
    "x-forwarded-client-cert",
    "x-envoy-retry-on",
    "x-envoy-max-retries",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-decorator-operation",
)
# The request has not been seen by the service: sending it elsewhere is always right.
_UNSEEN = "connect-failure,refused-stream,reset-before-request"
# A read may have been seen: it is sent again all the same.
_IDEMPOTENT = f"{_UNSEEN},reset,unavailable"


@dataclass(frozen=True, slots=True)
class RouteOptions:
    """What the routes depend on besides the API itself."""

    unary_timeout_seconds: float
    token_requests_per_second: int
    token_requests_per_address: int
    cors_origins: tuple[str, ...] = ()


def routes(options: RouteOptions, ready: Mapping[str, bool], keys_known: bool) -> Json:
    """The route configuration.

    Args:
        options: From the settings.
        ready: Service -> whether it has an instance; shown at /readyz.
        keys_known: Whether tokens can be verified. Without the auth service's keys every call
            that needs a token is answered 503, naming it.
    """
    host: Json = {
        "name": "gateway",
        "domains": ["*"],
        "routes": list(_routes(options, ready, keys_known)),
        "request_headers_to_remove": list(INTERNAL_HEADERS),
    }
    if options.cors_origins:
        host["typed_per_filter_config"] = cors_policy(options.cors_origins)
    return discovery_response(
        typed(
            "envoy.config.route.v3.RouteConfiguration",
            name=ROUTE_CONFIG,
            virtual_hosts=[host],
        )
    )


def _routes(options: RouteOptions, ready: Mapping[str, bool], keys_known: bool) -> Iterator[Json]:
    yield _direct({"path": "/healthz"}, 200, "ok")
    yield _direct({"path": "/readyz"}, 200 if keys_known else 503, _readiness(ready, keys_known))
    yield _public({"prefix": "/grpc.health.v1.Health/"}, _forward(CONTROL, 0, _UNSEEN))
    for method, service in PUBLIC_METHODS.items():
        route = _public({"path": method}, _forward(service, options.unary_timeout_seconds, _UNSEEN))
        if method == ISSUE_TOKEN:
            route["typed_per_filter_config"] |= {
                RATE_LIMIT: rate_limit(
                    options.token_requests_per_second,
                    "tokens",
                    options.token_requests_per_address,
                )
            }
        yield route
    for path in PUBLIC_OIP_PATHS:
        yield _public({"path": path}, _forward(OIP_UPSTREAM.cluster, 10, _IDEMPOTENT))
    yield from _rest()
    for method in INTERNAL_METHODS:
        yield _direct({"path": method}, 403, "only processes of the mesh may call this method")
    if keys_known:
        yield from _inference()
        for upstream in API_UPSTREAMS:
            yield from _service(upstream.service, options)
    else:
        prefixes = [f"/{name}/" for name in OIP_GRPC_SERVICES]
        prefixes += [f"/{package(upstream.service)}." for upstream in API_UPSTREAMS]
        for match in (*_OPEN_INFERENCE_REST, *({"prefix": prefix} for prefix in prefixes)):
            yield _direct(
                match, 503, "the auth service cannot be reached, so tokens cannot be verified"
            )
    yield _direct({"prefix": "/"}, 404, "nothing is served at this path")


_OPEN_INFERENCE_REST: tuple[Json, ...] = ({"path": "/v2"}, {"prefix": "/v2/"})


def _inference() -> Iterator[Json]:
    """Open Inference, gRPC and REST, goes to the inference service's data port as it is."""
    grpc: tuple[Json, ...] = tuple({"prefix": f"/{name}/"} for name in OIP_GRPC_SERVICES)
    for match in (*grpc, *_OPEN_INFERENCE_REST):
        # A step of a sequence that an instance has begun must not be begun again.
        by_key = _forward(OIP_BY_KEY.cluster, 0, _UNSEEN) | {
            "hash_policy": [{"header": {"header_name": ROUTING_KEY_HEADER}}]
        }
        yield from _with_token(_with_header(match, ROUTING_KEY_HEADER), by_key)
        # A stream (ModelStreamInfer) may last; other calls end with their caller's deadline.
        yield from _with_token(match, _forward(OIP_UPSTREAM.cluster, 0, _IDEMPOTENT))


def _rest() -> Iterator[Json]:
    for match in REST_MATCHES:
        # Never forwarded: the transcoder makes it a gRPC path, or answers that there is none.
        # Still a route to a cluster, since CORS does not look at direct responses.
        route = _public(match, _forward(CONTROL, 1, _UNSEEN))
        for kind, looked_into in ((_with_body(match), WITH_BODY), (match, {})):
            plain = {**NO_TOKEN, **TRANSCODED, **looked_into}
            yield {
                **route,
                "match": _with_header(kind, API_KEY_HEADER),
                "typed_per_filter_config": {**plain, **WITH_API_KEY},
            }
            yield {**route, "match": kind, "typed_per_filter_config": plain}


def _service(service: str, options: RouteOptions) -> Iterator[Json]:
    prefix = f"/{package(service)}."
    for method in streaming_methods(service):
        yield from _with_token({"path": method}, _forward(service, 0, _UNSEEN))
    reads = {"safe_regex": {"regex": f"^{re.escape(prefix)}[A-Za-z]+/(Get|List)[A-Za-z]*$"}}
    yield from _with_token(reads, _forward(service, options.unary_timeout_seconds, _IDEMPOTENT))
    yield from _with_token(
        {"prefix": prefix}, _forward(service, options.unary_timeout_seconds, _UNSEEN)
    )


def _with_token(match: Json, action: Json) -> Iterator[Json]:
    yield {
        "match": _with_header(match, API_KEY_HEADER),
        "route": action,
        "typed_per_filter_config": {**WITH_API_KEY},
    }
    yield {"match": match, "route": action}


def _public(match: Json, action: Json) -> Json:
    return {"match": match, "route": action, "typed_per_filter_config": {**NO_TOKEN}}


def _with_header(match: Json, name: str) -> Json:
    return {**match, "headers": [*match.get("headers", ()), {"name": name, "present_match": True}]}


def _with_body(match: Json) -> Json:
    method = {"name": ":method", "string_match": {"safe_regex": {"regex": "POST|PATCH"}}}
    return {**match, "headers": [*match.get("headers", ()), method]}


def _direct(match: Json, status: int, body: str) -> Json:
    return {
        "match": match,
        "direct_response": {"status": status, "body": {"inline_string": body}},
        "typed_per_filter_config": {**NO_TOKEN},
    }


def _forward(cluster: str, timeout_seconds: float, retry_on: str) -> Json:
    return {
        "cluster": cluster,
        "timeout": "0s",
        # A caller's own deadline (grpc-timeout) counts before ours.
        "max_stream_duration": {
            "max_stream_duration": duration(timeout_seconds),
            "grpc_timeout_header_max": "0s",
        },
        "retry_policy": {
            "retry_on": retry_on,
            "num_retries": 3,
            "retry_back_off": {"base_interval": "0.010s", "max_interval": "0.100s"},
            "retry_host_predicate": [
                {
                    "name": "envoy.retry_host_predicates.previous_hosts",
                    "typed_config": typed(
                        "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                    ),
                }
            ],
            # Of two instances the dead one, where nothing runs, is drawn again and again.
            "host_selection_retry_max_attempts": 16,
        },
    }


def _readiness(ready: Mapping[str, bool], keys_known: bool) -> str:
    missing = [service for service, present in ready.items() if not present]
    if not keys_known:
        return "waiting for the signing keys of the auth service"
    return "ready" + (f"; no instance of {', '.join(missing)}" if missing else "")
