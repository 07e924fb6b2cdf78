"""What Envoy answers by itself: a google.rpc.Status with a reason, in the caller's protocol.

A gRPC caller gets the status, the message and ``grpc-status-details-bin`` with an ErrorInfo (a
transcoded REST caller gets the same as JSON); any other caller gets JSON: ``code``, ``message``,
``reason``, ``details`` and, for Open Inference clients, the message as ``error`` too.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status

from lepton_gateway.envoy import Json, typed
from lepton_gateway.upstreams import UPSTREAMS
from lepton_mesh.errors import DOMAIN


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: the condition it is for, and what the caller gets."""

    when: str
    """A CEL expression over the request and the response as Envoy made it."""
    code: int
    """google.rpc.Code."""
    reason: str
    message: str = ""
    """"" keeps the message that Envoy or the control plane gave."""
    status: int = 0
    """HTTP status; 0 keeps it."""


def local_replies() -> Json:
    """Envoy's LocalReplyConfig: the first mapper whose condition holds is applied."""
    mappers: list[Json] = []
    for reply in _replies():
        mappers += [_for_grpc(reply), _for_others(reply)]
    return {"mappers": mappers}


def _replies() -> Iterator[Reply]:
    yield Reply(
        _details("jwt_authn_access_denied{Jwt_is_missing"),
        16,
        "TOKEN_MISSING",
        "the request carries no access token; send `authorization: Bearer <token>`, or an API key"
        " as `x-api-key`",
    )
    yield Reply(
        _details("jwt_authn_access_denied{Jwt_is_expired"),
        16,
        "TOKEN_EXPIRED",
        "the access token has expired; log in again, or use the refresh token",
    )
    yield Reply(
        _details("jwt_authn_access_denied"),
        16,
        "TOKEN_INVALID",
        "the access token is not one of this cloud's auth service; log in again",
        status=401,  # Envoy says 403 for a foreign audience
    )
    yield Reply(
        _details("local_rate_limited"),
        8,
        "RATE_LIMITED",
        "too many requests; slow down and try again in a moment",
    )
    for upstream in UPSTREAMS:
        cluster, service = upstream.cluster, upstream.service
        yield Reply(
            f"xds.cluster_name == '{cluster}' && {_details('no_healthy_upstream')}",
            14,
            "NO_INSTANCE",
            f"the {service} service has no instance now; `lepton status` shows what runs",
        )
        yield Reply(
            f"xds.cluster_name == '{cluster}' && {_details('upstream_reset')}",
            14,
            "SERVICE_UNREACHABLE",
            f"the connection to the {service} service failed; try again in a moment",
            status=503,
        )
    yield Reply(
        "response.code == 504 || " + _details("upstream_max_stream_duration"),
        4,
        "DEADLINE_EXCEEDED",
        "the service did not answer before the deadline; allow more time or try again",
        status=504,
    )
    yield Reply(
        "response.code == 503 && " + _details("direct_response"),
        14,
        "NO_INSTANCE",
        "the auth service cannot be reached, so no token can be verified; `lepton status` shows"
        " what runs",
    )
    yield Reply(
        "response.code == 503 && " + _details("ext_authz"),
        14,
        "AUTH_UNREACHABLE",
        "the API key could not be exchanged for a token; try again in a moment",
    )
    yield Reply(
        "response.code == 401 && " + _details("ext_authz"),
        16,
        "CREDENTIAL_INVALID",
        "the API key is not valid; it may have been revoked, or have expired",
    )
    yield Reply(
        "response.code == 429 && " + _details("ext_authz"),
        8,
        "RATE_LIMITED",
        "too many API keys are being checked; try again in a moment",
    )
    yield Reply(
        "response.code == 403",
        7,
        "MESH_ONLY",
        "only processes of the mesh may call this method, over mutual TLS",
    )
    unknown = (
        "nothing is served at this path; the API's paths begin with /v1, Open Inference's with /v2"
    )
    yield Reply(f"response.code == 404 && {_GRPC}", 12, "UNKNOWN_PATH", unknown)
    yield Reply("response.code == 404", 5, "UNKNOWN_PATH", unknown)
    yield Reply(
        _details("path_normalization_failed"),
        3,
        "INVALID_REQUEST",
        "the path is not valid; it may hold no NUL, no escaped slash or backslash, and no '..' that"
        " leads out of it",
    )
    yield Reply("response.code == 400", 3, "INVALID_REQUEST")
    yield Reply("response.code == 413", 8, "REQUEST_TOO_LARGE")
    yield Reply("response.code >= 500", 14, "GATEWAY_UNAVAILABLE")
    yield Reply("response.code >= 400", 3, "BAD_REQUEST")


# A transcoded request looks like gRPC by then, but its caller waits for JSON; the transcoder
# leaves the path that it came with.
_GRPC = (
    "'content-type' in request.headers"
    " && request.headers['content-type'].startsWith('application/grpc')"
    " && !('x-envoy-original-path' in request.headers)"
)


def _details(prefix: str) -> str:
    return f"response.code_details.startsWith('{prefix}')"


def _for_grpc(reply: Reply) -> Json:
    mapper: Json = {"filter": _cel(f"{_GRPC} && {reply.when}")}
    headers = {"grpc-status": str(reply.code)}
    if reply.message:
        mapper["body"] = {"inline_string": reply.message}
        headers["grpc-status-details-bin"] = _details_header(reply)
    mapper["headers_to_add"] = [_overwrite(name, value) for name, value in headers.items()]
    mapper["body_format_override"] = {"text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}}
    return mapper


def _for_others(reply: Reply) -> Json:
    message = reply.message or "%LOCAL_REPLY_BODY%"
    mapper: Json = {
        "filter": _cel(reply.when),
        "body_format_override": {
            "json_format": {
                "code": reply.code,
                "message": message,
                "error": message,
                "reason": reply.reason,
                "details": [
                    {
                        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                        "reason": reply.reason,
                        "domain": DOMAIN,
                    }
                ],
            }
        },
    }
    if reply.status:
        mapper["status_code"] = reply.status
    return mapper


def _details_header(reply: Reply) -> str:
    info = AnyMessage()
    info.Pack(ErrorInfo(reason=reply.reason, domain=DOMAIN))
    status = Status(code=reply.code, message=reply.message, details=[info])
    # The binary headers of gRPC are base64, by preference without padding.
    return base64.b64encode(status.SerializeToString(deterministic=True)).decode().rstrip("=")


def _overwrite(name: str, value: str) -> Json:
    return {
        "header": {"key": name, "value": value},
        "append_action": "OVERWRITE_IF_EXISTS_OR_ADD",
    }


def _cel(expression: str) -> Json:
    return {
        "extension_filter": {
            "name": "envoy.access_loggers.extension_filters.cel",
            "typed_config": typed(
                "envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
                expression=expression,
            ),
        }
    }
