"""Names, chains, tokens."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from lepton_mesh.errors import InvalidArgument
from lepton_mesh.join import InvalidJoinToken, JoinToken
from lepton_mesh.peers import PeerUntrusted, peer_certificate
from lepton_mesh.pki import (
    CertificateAuthority,
    CertificateUntrusted,
    Credentials,
    Names,
    certificate_pem,
    fingerprint,
    generate_key,
    key_pem,
)
from lepton_mesh.spiffe import InvalidSpiffeId, SpiffeId, dns_name

STORAGE = SpiffeId.for_service("lepton.local", "storage")


@pytest.fixture(scope="module")
def root() -> CertificateAuthority:
    return CertificateAuthority.create_root("lepton.local")


@pytest.fixture(scope="module")
def authority(root: CertificateAuthority) -> CertificateAuthority:
    return root.create_intermediate()


@pytest.mark.parametrize(
    ("text", "parts", "dns", "common_name"),
    [
        ("spiffe://lepton.local/svc/storage", ("storage", None, None), "storage", "storage"),
        ("spiffe://td/svc/supervisor", ("supervisor", None, None), "supervisor", "root"),
        ("spiffe://td/ws/vision/job/mnist-1", (None, "vision", "mnist-1"), "job", "job"),
    ],
)
def test_names_of_workloads(
    text: str, parts: tuple[str | None, ...], dns: str, common_name: str
) -> None:
    name = SpiffeId.parse(text)
    assert str(name) == text
    assert (name.service, name.workspace, name.job) == parts
    assert (name.dns_name, name.common_name) == (f"{dns}.lepton.internal", common_name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "https://lepton.local/svc/storage",
        "spiffe://lepton.local/svc/Storage",
        "spiffe://lepton.local/svc/storage/",
        "spiffe://lepton.local/svc/storage?x",
        "spiffe://lepton.local/svc/storage\n",
        "spiffe://lepton.local/svc/../svc/storage",
        "spiffe://lepton.local:1/svc/storage",
        "spiffe://u@lepton.local/svc/storage",
        "spiffe:///svc/storage",
        "spiffe://lepton.local/ws/a/job/b/c",
    ],
)
def test_what_is_no_workload(text: str) -> None:
    with pytest.raises(InvalidSpiffeId):
        SpiffeId.parse(text)


def test_a_leaf_says_what_the_mesh_needs(authority: CertificateAuthority) -> None:
    leaf = authority.issue_credentials(Names(STORAGE, ("localhost",), ("127.0.0.1",))).leaf
    san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.UniformResourceIdentifier) == [str(STORAGE)]
    assert san.get_values_for_type(x509.DNSName) == [dns_name("storage"), "localhost"]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    life = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    assert timedelta(hours=1) <= life <= timedelta(hours=1, minutes=1, seconds=1)
    assert Names.of(leaf) == Names(STORAGE, ("localhost",), ("127.0.0.1",))


def test_the_intermediate_signs_leaves_only(authority: CertificateAuthority) -> None:
    constraints = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.value.path_length == 0
    with pytest.raises(CertificateUntrusted, match="path length"):
        authority.create_intermediate().issue_credentials(Names(STORAGE)).verify()


def test_no_authority_promises_more_than_its_own_life(root: CertificateAuthority) -> None:
    short = root.create_intermediate(timedelta(seconds=90))
    leaf = short.issue_credentials(Names(STORAGE)).leaf
    assert leaf.not_valid_after_utc == short.certificate.not_valid_after_utc


def test_credentials_that_do_not_belong_together(
    root: CertificateAuthority, authority: CertificateAuthority
) -> None:
    good = authority.issue_credentials(Names(STORAGE))
    good.verify()
    other = CertificateAuthority.create_root("lepton.local").create_intermediate()
    foreign = other.issue_credentials(Names(STORAGE))
    key, chain, roots = (
        good.private_key_pem,
        good.certificate_chain_pem,
        good.trust_bundle_pem,
    )
    table = [
        (Credentials(foreign.private_key_pem, chain, roots), "private key does not belong"),
        (Credentials(key, chain, foreign.trust_bundle_pem), "does not chain"),
        (Credentials(key, certificate_pem(good.leaf), roots), "does not chain"),
        (Credentials(b"", chain, roots), "not readable PEM"),
        (Credentials(key, b"rubbish", roots), "not readable PEM"),
        (authority.issue_credentials(Names(STORAGE), timedelta(seconds=-1)), "ended at"),
    ]
    for credentials, message in table:
        with pytest.raises(CertificateUntrusted, match=message):
            credentials.verify()


def test_private_keys_are_not_printed(authority: CertificateAuthority) -> None:
    credentials = authority.issue_credentials(Names(STORAGE))
    token = JoinToken.create(STORAGE, authority.root)
    for thing in (credentials, authority, token):
        assert "PRIVATE" not in repr(thing)
        assert repr(token.secret) not in repr(thing)
        assert token.encoded_secret not in repr(thing)


def test_authorities_are_read_back_only_with_their_own_key(
    root: CertificateAuthority, authority: CertificateAuthority
) -> None:
    parts = [key_pem(authority.key), *map(certificate_pem, (authority.certificate, root.root))]
    assert CertificateAuthority.from_pem(*parts).certificate == authority.certificate
    with pytest.raises(CertificateUntrusted, match="private key"):
        CertificateAuthority.from_pem(key_pem(generate_key()), *parts[1:])
    other = CertificateAuthority.create_root("lepton.local")
    with pytest.raises(CertificateUntrusted, match="not issued by its root"):
        CertificateAuthority.from_pem(*parts[:2], certificate_pem(other.root))


@pytest.mark.parametrize("names", [Names(STORAGE, ("ß",)), Names(STORAGE, (), ("localhost",))])
def test_malformed_further_names(authority: CertificateAuthority, names: Names) -> None:
    with pytest.raises(InvalidArgument, match="malformed"):
        authority.issue_credentials(names)


def test_a_join_token_survives_being_copied(root: CertificateAuthority) -> None:
    token = JoinToken.create(STORAGE, root.root)
    assert JoinToken.decode(f" {token.encode()}\n") == token
    assert token.root_fingerprint == fingerprint(root.root)
    assert len(token.secret) == 32


def test_what_is_no_join_token_is_not_repeated(root: CertificateAuthority) -> None:
    text = JoinToken.create(STORAGE, root.root).encode()
    for wrong in ("", "lpk_x", text[1:], text.replace(".", ","), text[:60], text[:-30]):
        with pytest.raises(InvalidJoinToken) as raised:
            JoinToken.decode(wrong)
        assert not wrong or wrong not in str(raised.value)


def test_a_peer_with_a_foreign_kind_of_certificate(authority: CertificateAuthority) -> None:
    """Signed by our authority, and yet not a name of the mesh."""
    key = generate_key()
    now = authority.certificate.not_valid_before_utc
    leaf = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority.certificate.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(hours=1))
        .sign(authority.key, hashes.SHA256())
    )
    with pytest.raises(PeerUntrusted, match="names no SPIFFE id"):
        peer_certificate({"x509_pem_cert": [certificate_pem(leaf)]})
    assert peer_certificate({}) is None
