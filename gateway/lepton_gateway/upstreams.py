"""What is reachable through the gateway, and on what terms.

The services and their methods are read from the generated API, so that a new method needs
nothing here. What does: a method that needs no token, and one that only the mesh may call.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lepton.api.auth.v1 import auth_pb2
from lepton.api.inference.v1 import inference_pb2
from lepton.api.registry.v1 import registry_pb2
from lepton.api.storage.v1 import storage_pb2
from lepton.api.training.v1 import training_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import FileDescriptor

OIP_PORT = "oip"
"""The name of the Open Inference port in inference's instance record."""
OIP_GRPC_SERVICES = ("inference.GRPCInferenceService", "lepton.oip.v2.GRPCInferenceService")
"""Triton's and KServe's name of the service, and ours (protos/lepton/oip)."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """One cluster of Envoy: the instances of a service, at one of their ports."""

    cluster: str
    service: str
    port: str = ""
    """A name in the instance record's ``ports``; "" means its ``address``."""
    by_key: bool = False
    """Whether the routing key of a request chooses its instance, rather than their load."""


_API: dict[str, FileDescriptor] = {
    "auth": auth_pb2.DESCRIPTOR,
    "storage": storage_pb2.DESCRIPTOR,
    "registry": registry_pb2.DESCRIPTOR,
    "training": training_pb2.DESCRIPTOR,
    "inference": inference_pb2.DESCRIPTOR,
}
API_FILES = tuple(_API.values())
API_UPSTREAMS = tuple(Upstream(cluster=name, service=name) for name in _API)
OIP_UPSTREAM = Upstream(cluster="inference-data", service="inference", port=OIP_PORT)
OIP_BY_KEY = Upstream("inference-data-by-key", "inference", OIP_PORT, by_key=True)
UPSTREAMS = (*API_UPSTREAMS, OIP_UPSTREAM, OIP_BY_KEY)
ROUTING_KEY_HEADER = "x-lepton-routing-key"
"""Open Inference requests of one value reach one instance, where their sequence's state is."""

PUBLIC_METHODS = {
    "/lepton.api.auth.v1.AuthService/IssueToken": "auth",
    "/lepton.api.auth.v1.AuthService/GetJwks": "auth",
}
"""Methods of the API that need no token -> their service."""
PUBLIC_OIP_PATHS = (
    "/v2/health/live",
    "/v2/health/ready",
    *(
        f"/{name}/{method}"
        for name in OIP_GRPC_SERVICES
        for method in ("ServerLive", "ServerReady")
    ),
)
"""Liveness and readiness of the inference service: load balancers have no token."""
INTERNAL_METHODS = (
    "/lepton.api.auth.v1.CertificateService/Join",
    "/lepton.api.auth.v1.CertificateService/RenewCertificate",
    "/lepton.api.auth.v1.CertificateService/IssueJobCredentials",
)
"""Methods that act on the certificate of the process that calls, which here would be ours."""
ISSUE_TOKEN = "/lepton.api.auth.v1.AuthService/IssueToken"  # noqa: S105  a method, not a token


def package(service: str) -> str:
    """The proto package of a service's API, as ``lepton.api.storage.v1``."""
    return _API[service].package


def streaming_methods(service: str) -> Iterable[str]:
    """Full names of the methods that stream, either way: they have no deadline by default."""
    for descriptor in _API[service].services_by_name.values():
        for method in descriptor.methods:
            if method.client_streaming or method.server_streaming:
                yield f"/{descriptor.full_name}/{method.name}"
