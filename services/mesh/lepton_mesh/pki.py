"""Keys, signing requests, certificates: what the mesh's identities are made of.

Everything is P-256, and every authority is ours: an offline root, an intermediate that may
sign leaves only (path length 0), leaves that live for an hour. There are no URI name
constraints: BoringSSL, and with it gRPC and Envoy, rejects such chains.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from lepton_mesh.errors import InvalidArgument, Unauthenticated
from lepton_mesh.spiffe import InvalidSpiffeId, SpiffeId

LEAF_TTL = timedelta(hours=1)
INTERMEDIATE_TTL = timedelta(days=365)
ROOT_TTL = timedelta(days=3650)
# Hosts of one mesh may disagree about the time by this much.
_BACKDATE = timedelta(minutes=1)
_MAX_CSR_BYTES = 8192

PrivateKey = ec.EllipticCurvePrivateKey


class InvalidSigningRequest(InvalidArgument):
    """The CSR cannot be read, has another kind of key, or its sender does not hold the key."""

    reason = "SIGNING_REQUEST_INVALID"


class CertificateUntrusted(Unauthenticated):
    """A certificate that does not chain to the mesh's roots, or not at this time."""

    reason = "CERTIFICATE_UNTRUSTED"


def generate_key() -> PrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: PrivateKey) -> bytes:
    """PKCS#8, not encrypted: write it with mode 0600 only."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def certificate_pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of the DER form: 32 bytes."""
    return certificate.fingerprint(hashes.SHA256())


def serial_hex(certificate: x509.Certificate) -> str:
    """The serial number as the denylist writes it: lower-case hex."""
    return f"{certificate.serial_number:x}"


def make_csr(key: PrivateKey) -> bytes:
    """A PKCS#10 request, DER, without names: the authority knows better who we are."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def csr_public_key(csr_der: bytes) -> ec.EllipticCurvePublicKey:
    """The key of a request whose sender proved to hold it; every name in it is ignored.

    Raises:
        InvalidSigningRequest
    """
    if len(csr_der) > _MAX_CSR_BYTES:
        raise InvalidSigningRequest(f"the signing request exceeds {_MAX_CSR_BYTES} bytes")
    try:
        csr = x509.load_der_x509_csr(csr_der)
        key = csr.public_key()
        proven = csr.is_signature_valid
    except Exception:
        # The parser raises many kinds for hostile input.
        raise InvalidSigningRequest("the signing request is not a PKCS#10 DER document") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidSigningRequest("the signing request's key is not P-256; make one with it")
    if not proven:
        raise InvalidSigningRequest(
            "the signing request is not signed with its own key; sign it with the key it names"
        )
    return key


@dataclass(frozen=True)
class Names:
    """What a leaf certificate says about its holder."""

    spiffe_id: SpiffeId
    dns_names: tuple[str, ...] = ()
    """Further DNS names, besides the SPIFFE id's own."""
    ip_addresses: tuple[str, ...] = ()

    @classmethod
    def of(cls, certificate: x509.Certificate) -> Self:
        """The names in a certificate of ours.

        Raises:
            CertificateUntrusted: It does not hold exactly one SPIFFE id of a known form.
        """
        try:
            san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (x509.ExtensionNotFound, ValueError):
            raise CertificateUntrusted("the certificate names no SPIFFE id") from None
        uris = san.get_values_for_type(x509.UniformResourceIdentifier)
        # X.509-SVID section 2: exactly one URI.
        if len(uris) != 1:
            raise CertificateUntrusted(f"the certificate has {len(uris)} URI names; one is allowed")
        try:
            spiffe_id = SpiffeId.parse(uris[0])
        except InvalidSpiffeId as error:
            raise CertificateUntrusted(f"the certificate's name: {error.message}") from None
        return cls(
            spiffe_id,
            tuple(
                name for name in san.get_values_for_type(x509.DNSName) if name != spiffe_id.dns_name
            ),
            tuple(str(address) for address in san.get_values_for_type(x509.IPAddress)),
        )

    def san(self) -> x509.SubjectAlternativeName:
        """
        Raises:
            InvalidArgument: A DNS name or an IP address is malformed.
        """
        try:
            return x509.SubjectAlternativeName(
                [
                    x509.UniformResourceIdentifier(str(self.spiffe_id)),
                    *(x509.DNSName(name) for name in (self.spiffe_id.dns_name, *self.dns_names)),
                    *(x509.IPAddress(ipaddress.ip_address(one)) for one in self.ip_addresses),
                ]
            )
        except ValueError as error:
            raise InvalidArgument(f"a name for the certificate is malformed: {error}") from None


@dataclass(frozen=True)
class Credentials:
    """A private key with its certificate chain and the roots to trust: all PEM."""

    private_key_pem: bytes = field(repr=False)
    certificate_chain_pem: bytes = field(repr=False)
    """Leaf first, then the intermediate."""
    trust_bundle_pem: bytes = field(repr=False)

    @cached_property
    def leaf(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate_chain_pem)

    @cached_property
    def names(self) -> Names:
        return Names.of(self.leaf)

    @property
    def not_after(self) -> datetime:
        return self.leaf.not_valid_after_utc

    def verify(self) -> None:
        """Checks that chain, roots and key belong together and are valid now.

        Raises:
            CertificateUntrusted: They are not; the message says what is wrong.
        """
        try:
            key = serialization.load_pem_private_key(self.private_key_pem, password=None)
            chain = x509.load_pem_x509_certificates(self.certificate_chain_pem)
            roots = x509.load_pem_x509_certificates(self.trust_bundle_pem)
        except (ValueError, TypeError):
            raise CertificateUntrusted(
                "the key, the certificate or the trust bundle is not readable PEM"
            ) from None
        verify_chain(chain, roots)
        if key.public_key() != chain[0].public_key():
            raise CertificateUntrusted("the private key does not belong to the certificate")


def verify_chain(chain: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]) -> Names:
    """Verifies a leaf and its intermediates against ``roots`` at this time (RFC 5280).

    Raises:
        CertificateUntrusted
    """
    leaf = chain[0]
    if leaf.not_valid_after_utc <= datetime.now(UTC):
        raise CertificateUntrusted(f"the certificate ended at {leaf.not_valid_after_utc}")
    verifier = PolicyBuilder().store(Store(list(roots))).build_client_verifier()
    try:
        verifier.verify(leaf, list(chain[1:]))
    except VerificationError as error:
        raise CertificateUntrusted(
            f"the certificate does not chain to the mesh's root: {error}"
        ) from None
    return Names.of(leaf)


@dataclass(frozen=True)
class CertificateAuthority:
    """A key that may sign certificates, with its certificate and the root above it."""

    key: PrivateKey = field(repr=False)
    certificate: x509.Certificate
    root: x509.Certificate
    """The same as ``certificate`` for the root itself."""

    @classmethod
    def create_root(cls, trust_domain: str, ttl: timedelta = ROOT_TTL) -> Self:
        key = generate_key()
        name = _authority_name(f"{trust_domain} root CA")
        builder = _builder(name, name, key.public_key(), datetime.now(UTC) + ttl)
        certificate = _as_authority(builder, None).sign(key, hashes.SHA256())
        return cls(key, certificate, certificate)

    @classmethod
    def from_pem(cls, private_key: bytes, certificate: bytes, root: bytes) -> Self:
        """
        Raises:
            CertificateUntrusted: The three do not belong together.
        """
        key = serialization.load_pem_private_key(private_key, password=None)
        authority = x509.load_pem_x509_certificate(certificate)
        root_certificate = x509.load_pem_x509_certificate(root)
        if not isinstance(key, PrivateKey) or key.public_key() != authority.public_key():
            raise CertificateUntrusted("the CA's private key does not belong to its certificate")
        try:
            authority.verify_directly_issued_by(root_certificate)
        except (ValueError, TypeError, InvalidSignature):
            raise CertificateUntrusted("the CA's certificate was not issued by its root") from None
        return cls(key, authority, root_certificate)

    def create_intermediate(self, ttl: timedelta = INTERMEDIATE_TTL) -> CertificateAuthority:
        """A fresh authority below this one that can sign leaves, and no further authority."""
        key = generate_key()
        name = _authority_name(f"issuing CA {datetime.now(UTC):%Y-%m-%dT%H:%MZ}")
        end = min(datetime.now(UTC) + ttl, self.certificate.not_valid_after_utc)
        builder = _builder(name, self.certificate.subject, key.public_key(), end)
        builder = _as_authority(builder, 0).add_extension(self._authority_key(), critical=False)
        return CertificateAuthority(key, builder.sign(self.key, hashes.SHA256()), self.root)

    def issue(
        self, public_key: ec.EllipticCurvePublicKey, names: Names, ttl: timedelta = LEAF_TTL
    ) -> x509.Certificate:
        """A leaf for TLS servers and clients; it ends with this authority at the latest."""
        end = min(datetime.now(UTC) + ttl, self.certificate.not_valid_after_utc)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names.spiffe_id.common_name)])
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        return (
            _builder(subject, self.certificate.subject, public_key, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(names.san(), critical=False)
            .add_extension(self._authority_key(), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def issue_credentials(self, names: Names, ttl: timedelta = LEAF_TTL) -> Credentials:
        """A new key with a certificate of this authority, for who runs beside it."""
        key = generate_key()
        leaf = self.issue(key.public_key(), names, ttl)
        return Credentials(key_pem(key), self.chain_pem(leaf), self.trust_bundle_pem)

    def chain_pem(self, leaf: x509.Certificate) -> bytes:
        return certificate_pem(leaf, self.certificate)

    @property
    def trust_bundle_pem(self) -> bytes:
        return certificate_pem(self.root)

    def _authority_key(self) -> x509.AuthorityKeyIdentifier:
        identifier = self.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier.value)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    end: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - _BACKDATE)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _as_authority(
    builder: x509.CertificateBuilder, path_length: int | None
) -> x509.CertificateBuilder:
    return builder.add_extension(
        x509.BasicConstraints(ca=True, path_length=path_length), critical=True
    ).add_extension(_key_usage(authority=True), critical=True)


def _authority_name(common_name: str) -> x509.Name:
    # At most 64 characters (RFC 5280 appendix A, ub-common-name); a trust domain may be longer.
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Lepton"),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name[-64:]),
        ]
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
