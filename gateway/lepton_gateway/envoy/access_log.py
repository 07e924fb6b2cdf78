"""The access log: one JSON object a request, and never a credential.

Paths are written without their query, headers by name only where they are safe.
"""

from __future__ import annotations

import re
from pathlib import Path

from lepton_gateway.envoy import Json, typed
from lepton_gateway.upstreams import OIP_GRPC_SERVICES

_FIELDS = {
    "time": "%START_TIME%",
    "method": "%REQ(:METHOD)%",
    "path": "%PATH(NQ:ORIG_OR_PATH)%",
    "rpc": "%PATH(NQ:PATH)%",
    "protocol": "%PROTOCOL%",
    "status": "%RESPONSE_CODE%",
    "grpc_status": "%GRPC_STATUS%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "bytes_received": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration_ms": "%DURATION%",
    "cluster": "%UPSTREAM_CLUSTER%",
    "upstream": "%UPSTREAM_HOST%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    "user_agent": "%REQ(USER-AGENT)%",
    "request_id": "%REQ(X-REQUEST-ID)%",
    "traceparent": "%REQ(TRACEPARENT)%",
}


def access_log(path: Path, sample_percent: float) -> Json:
    """All requests but successful Open Inference ones, of which ``sample_percent``."""
    return {
        "name": "envoy.access_loggers.file",
        "filter": {
            "or_filter": {
                "filters": [
                    _not_inference(),
                    _failed_http(),
                    {"grpc_status_filter": {"statuses": ["OK"], "exclude": True}},
                    _sample(sample_percent),
                ]
            }
        },
        "typed_config": typed(
            "envoy.extensions.access_loggers.file.v3.FileAccessLog",
            path=str(path),
            log_format={"json_format": _FIELDS, "omit_empty_values": True},
        ),
    }


def _not_inference() -> Json:
    names = "|".join(re.escape(f"{name}/") for name in OIP_GRPC_SERVICES)
    return {
        "header_filter": {
            "header": {
                "name": ":path",
                "string_match": {"safe_regex": {"regex": f"^/(v2$|v2/|{names}).*"}},
                "invert_match": True,
            }
        }
    }


def _failed_http() -> Json:
    return {
        "status_code_filter": {
            "comparison": {
                "op": "GE",
                "value": {"default_value": 400, "runtime_key": "lepton.access_log.min_status"},
            }
        }
    }


def _sample(percent: float) -> Json:
    return {
        "runtime_filter": {
            "runtime_key": "lepton.access_log.sample",
            "percent_sampled": {
                "numerator": round(percent * 10_000),
                "denominator": "MILLION",
            },
            "use_independent_randomness": True,
        }
    }
