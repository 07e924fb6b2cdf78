"""Certificates (SDS): ours, towards users and services, and the roots that we trust."""

from __future__ import annotations

from pathlib import Path

from lepton_gateway.envoy import Json, discovery_response, from_file, typed
from lepton_mesh.spiffe import SpiffeId, dns_name

CERTIFICATE = "certificate"
TRUST = "trust"
# TLS 1.2 is left for clients only; the mesh itself speaks 1.3.
_CLIENTS = {"tls_minimum_protocol_version": "TLSv1_2"}
# Named twice, since Envoy as a client stops at 1.2 unless told otherwise.
_MESH = {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}


def certificate(chain_pem: str, private_key_pem: str) -> Json:
    """Our own certificate. Chain and key are one file, so that they always match."""
    return discovery_response(
        typed(
            "envoy.extensions.transport_sockets.tls.v3.Secret",
            name=CERTIFICATE,
            tls_certificate={
                "certificate_chain": {"inline_string": chain_pem},
                "private_key": {"inline_string": private_key_pem},
            },
        )
    )


def trust(bundle_pem: str) -> Json:
    """The roots that services' certificates must lead to."""
    return discovery_response(
        typed(
            "envoy.extensions.transport_sockets.tls.v3.Secret",
            name=TRUST,
            validation_context={"trusted_ca": {"inline_string": bundle_pem}},
        )
    )


def downstream_tls(directory: Path) -> Json:
    """The transport socket of users' connections: TLS, and no client certificate asked for."""
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed(
            "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            common_tls_context={
                "tls_params": _CLIENTS,
                "alpn_protocols": ["h2", "http/1.1"],
                "tls_certificate_sds_secret_configs": [_sds(directory, CERTIFICATE)],
            },
        ),
    }


def upstream_tls(directory: Path, trust_domain: str, service: str) -> Json:
    """The transport socket towards ``service``: mutual TLS, and its SPIFFE id is required."""
    return {
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed(
            "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            sni=dns_name(service),
            common_tls_context={
                "tls_params": _MESH,
                "alpn_protocols": ["h2"],
                "tls_certificate_sds_secret_configs": [_sds(directory, CERTIFICATE)],
                "combined_validation_context": {
                    "default_validation_context": {
                        "match_typed_subject_alt_names": [
                            {
                                "san_type": "URI",
                                "matcher": {
                                    "exact": str(SpiffeId.for_service(trust_domain, service))
                                },
                            }
                        ]
                    },
                    "validation_context_sds_secret_config": _sds(directory, TRUST),
                },
            },
        ),
    }


def _sds(directory: Path, name: str) -> Json:
    return {"name": name, "sds_config": from_file(directory / f"{name}.json")}
