"""Conversions of CertificateService; the rest of lepton.api.auth.v1 is in ``convert``."""

from __future__ import annotations

from cryptography import x509

from lepton.api.auth.v1 import auth_pb2 as pb
from lepton_auth.certificate_records import CertificateRecord
from lepton_auth.convert import timestamp
from lepton_mesh.identity import Issued


def bundle_message(issued: Issued) -> pb.CertificateBundle:
    """The answer to a signing request."""
    leaf = x509.load_pem_x509_certificate(issued.certificate_chain_pem)
    return pb.CertificateBundle(
        certificate_chain_pem=issued.certificate_chain_pem.decode(),
        trust_bundle_pem=issued.trust_bundle_pem.decode(),
        expire_time=timestamp(leaf.not_valid_after_utc),
    )


def revoked_message(record: CertificateRecord) -> pb.RevokedCertificate:
    """An entry of the denylist."""
    return pb.RevokedCertificate(
        serial_number=record.serial,
        spiffe_id=record.spiffe_id,
        revoke_time=timestamp(record.revoked),
        expire_time=timestamp(record.expires),
    )
