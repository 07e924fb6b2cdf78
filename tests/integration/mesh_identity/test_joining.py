"""First certificates by join token, renewal, revocation: through the auth service's own servers."""

from __future__ import annotations

import asyncio
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import CertificateSigningRequestBuilder, DNSName, Name
from cryptography.x509 import SubjectAlternativeName as Names

from lepton.api.auth.v1 import auth_pb2, auth_pb2_grpc
from lepton_mesh.config import MeshSettings
from lepton_mesh.errors import LeptonError
from lepton_mesh.identity import (
    IdentityMissing,
    SpiffeId,
    WorkloadIdentity,
    obtain_identity,
    renewer_over,
)
from lepton_mesh.interceptors.status import from_rpc_error
from lepton_mesh.join import (
    AuthorityNotPinned,
    InvalidJoinToken,
    JoinRefused,
    JoinToken,
    JoinUnavailable,
    join,
)
from lepton_mesh.peers import Denylist
from lepton_mesh.pki import (
    CertificateAuthority,
    Credentials,
    generate_key,
    key_pem,
    make_csr,
    serial_hex,
)
from lepton_mesh.spiffe import dns_name
from lepton_mesh.tls import client_channel

from .conftest import OPERATOR, TRUST_DOMAIN, Auth, MakeIdentity, Serving

pytestmark = pytest.mark.integration


def settings(directory: Path, auth: Auth, token: str = "") -> MeshSettings:
    """Those of a service that has nothing but, perhaps, a token."""
    token_file = directory / "join-token"
    if token:
        token_file.write_text(token + "\n")
    return MeshSettings(
        state_dir=directory,
        trust_domain=TRUST_DOMAIN,
        join_address=auth.join_address,
        join_token_file=token_file,
    )


async def test_a_service_joins_keeps_its_files_to_itself_and_needs_no_token_again(
    auth: Auth, tmp_path: Path
) -> None:
    asked = settings(tmp_path, auth, await auth.token("storage"))
    identity = await obtain_identity(asked, "storage")
    assert str(identity.spiffe_id) == f"spiffe://{TRUST_DOMAIN}/svc/storage"
    identity.credentials.verify()
    assert not (tmp_path / "join-token").exists()
    for name in ("cert.pem", "key.pem", "ca.pem"):
        assert stat.S_IMODE((tmp_path / "identity" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "identity").stat().st_mode) == 0o700

    again = await obtain_identity(asked, "storage")
    assert again.credentials == identity.credentials


async def test_the_token_file_stays_until_the_certificate_is_saved(
    auth: Auth, tmp_path: Path
) -> None:
    """Else nothing is left that says that the token was used."""
    asked = settings(tmp_path, auth, await auth.token("storage"))
    (tmp_path / "identity").write_text("no directory can be made here")
    with pytest.raises(OSError, match="identity"):
        await obtain_identity(asked, "storage")
    assert (tmp_path / "join-token").exists()
    (tmp_path / "identity").unlink()
    with pytest.raises(JoinRefused, match="was used at"):
        await obtain_identity(asked, "storage")


async def test_further_names_come_from_the_token(auth: Auth) -> None:
    token = await auth.token("gateway", dns_names=["localhost"], ip_addresses=["127.0.0.1"])
    names = (await join(auth.join_address, JoinToken.decode(token))).names
    assert names.dns_names == ("localhost",)
    assert names.ip_addresses == ("127.0.0.1",)


async def test_a_job_joins_as_itself(auth: Auth) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    token = await auth.joining.create_job_token("services/training", "vision", "mnist-1", until)
    credentials = await join(auth.join_address, JoinToken.decode(token.text))
    assert str(credentials.names.spiffe_id) == f"spiffe://{TRUST_DOMAIN}/ws/vision/job/mnist-1"
    assert credentials.leaf.subject.rfc4514_string() == "CN=job"


async def test_names_in_the_signing_request_are_ignored(auth: Auth) -> None:
    key = generate_key()
    csr = (
        CertificateSigningRequestBuilder()
        .subject_name(Name.from_rfc4514_string("CN=root"))
        .add_extension(Names([DNSName(dns_name("auth"))]), critical=False)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    token = JoinToken.decode(await auth.token("storage"))
    issued = await auth.joining.join(token.encoded_secret, csr)
    got = Credentials(key_pem(key), issued.certificate_chain_pem, issued.trust_bundle_pem)
    got.verify()
    assert got.names.dns_names == ()
    assert got.leaf.subject.rfc4514_string() == "CN=storage"


async def test_a_token_works_once_even_when_tried_at_once(auth: Auth) -> None:
    token = JoinToken.decode(await auth.token())
    results = await asyncio.gather(
        *(join(auth.join_address, token) for _ in range(5)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, JoinRefused)]
    assert len(refused) == 4
    assert all("was used at" in str(error) for error in refused)


async def test_an_expired_token_is_refused(auth: Auth) -> None:
    token = JoinToken.decode(await auth.token(ttl_seconds=5))
    auth.later = timedelta(seconds=5)
    with pytest.raises(JoinRefused, match="has expired; create a new one"):
        await join(auth.join_address, token)


async def test_an_unknown_token_is_refused(auth: Auth) -> None:
    token = replace(JoinToken.decode(await auth.token()), secret=bytes(32))
    with pytest.raises(JoinRefused, match="not known here"):
        await join(auth.join_address, token)


async def test_a_listener_of_another_mesh_gets_nothing(auth: Auth) -> None:
    """The token stays good: its secret was not sent."""
    text = await auth.token()
    other = CertificateAuthority.create_root(TRUST_DOMAIN)
    token = JoinToken.decode(text)
    strange = JoinToken.create(token.spiffe_id, other.root)
    with pytest.raises(AuthorityNotPinned, match="does not belong to the mesh"):
        await join(auth.join_address, replace(strange, secret=token.secret))
    await join(auth.join_address, token)


async def test_a_listener_that_shows_the_right_root_but_is_not_auth_gets_nothing(
    auth: Auth, make_identity: MakeIdentity
) -> None:
    """Another service of the mesh cannot collect tokens."""
    serving = Serving()
    await auth.serve(serving, make_identity("storage"))
    token = JoinToken.decode(await auth.token())
    with pytest.raises(JoinUnavailable):
        await join(auth.join_address, token)
    await serving.close()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "127.0.0.1:x"])
async def test_a_wrong_join_address_is_named(auth: Auth, address: str) -> None:
    token = JoinToken.decode(await auth.token())
    with pytest.raises(JoinUnavailable, match="LEPTON_JOIN_ADDRESS"):
        await join(address, token)


async def test_another_services_token_is_not_even_sent(auth: Auth, tmp_path: Path) -> None:
    text = await auth.token("registry")
    with pytest.raises(InvalidJoinToken, match=r"is for .*/svc/registry, not for .*/svc/storage"):
        await obtain_identity(settings(tmp_path, auth, text), "storage")
    await join(auth.join_address, JoinToken.decode(text))


async def test_without_certificate_and_token_the_remedy_is_named(
    auth: Auth, tmp_path: Path
) -> None:
    with pytest.raises(IdentityMissing, match="join-token --service storage"):
        await obtain_identity(settings(tmp_path, auth), "storage")


def rsa_csr() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    builder = CertificateSigningRequestBuilder().subject_name(Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def p384_csr() -> bytes:
    key = ec.generate_private_key(ec.SECP384R1())
    builder = CertificateSigningRequestBuilder().subject_name(Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def unproven_csr() -> bytes:
    """With another key in place of the one that signed."""
    mine, theirs = generate_key(), generate_key()
    raw = [
        key.public_key().public_bytes(
            serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
        )
        for key in (mine, theirs)
    ]
    return make_csr(mine).replace(raw[0], raw[1])


@pytest.mark.parametrize(
    "csr", [b"", b"x" * 9000, b"\x30\x03", rsa_csr(), p384_csr(), unproven_csr()]
)
async def test_a_bad_signing_request_is_refused_and_the_token_stays_good(
    auth: Auth, make_identity: MakeIdentity, csr: bytes
) -> None:
    token = JoinToken.decode(await auth.token())
    root = make_identity("storage").trust_bundle_pem
    options = [("grpc.ssl_target_name_override", dns_name("auth"))]
    async with grpc.aio.secure_channel(
        auth.join_address, grpc.ssl_channel_credentials(root), options
    ) as channel:
        stub = auth_pb2_grpc.CertificateServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Join(auth_pb2.JoinRequest(secret=token.encoded_secret, csr=csr))
    assert reason(raised.value) == "SIGNING_REQUEST_INVALID"
    await join(auth.join_address, token)


async def test_only_join_is_served_to_who_has_no_certificate(
    auth: Auth, make_identity: MakeIdentity
) -> None:
    root = make_identity("storage").trust_bundle_pem
    options = [("grpc.ssl_target_name_override", dns_name("auth"))]
    async with grpc.aio.secure_channel(
        auth.join_address, grpc.ssl_channel_credentials(root), options
    ) as channel:
        stub = auth_pb2_grpc.CertificateServiceStub(channel)
        for method, request in (
            (stub.RenewCertificate, auth_pb2.RenewCertificateRequest()),
            (stub.CreateJoinToken, auth_pb2.CreateJoinTokenRequest(service="storage")),
            (stub.IssueJobCredentials, auth_pb2.IssueJobCredentialsRequest()),
            (stub.GetTrustBundle, auth_pb2.GetTrustBundleRequest()),
            (stub.RevokeCertificate, auth_pb2.RevokeCertificateRequest()),
            (stub.ListRevokedCertificates, auth_pb2.ListRevokedCertificatesRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await method(request)
            assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize(
    ("service", "allowed"), [("training", True), ("storage", False), ("gateway", False)]
)
async def test_only_training_gets_job_credentials(
    auth: Auth, make_identity: MakeIdentity, service: str, allowed: bool
) -> None:
    async with client_channel(auth.address, make_identity(service), "auth") as channel:
        call = auth_pb2_grpc.CertificateServiceStub(channel).IssueJobCredentials(
            auth_pb2.IssueJobCredentialsRequest(job="jobs/mnist-1", writes=["models/m"]),
            metadata=(("x-lepton-workspace", "vision"),),
        )
        if not allowed:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call
            assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED
            return
        answer = await call
    token = JoinToken.decode(answer.join_token)
    assert token.spiffe_id == SpiffeId.for_job(TRUST_DOMAIN, "vision", "mnist-1")
    assert answer.access_token.count(".") == 2


async def test_renewal_keeps_every_name_and_replaces_the_files(auth: Auth, tmp_path: Path) -> None:
    token = await auth.token("gateway", dns_names=["localhost"], ip_addresses=["127.0.0.1"])
    identity = await WorkloadIdentity.obtain(settings(tmp_path, auth, token), "gateway")
    before = identity.credentials
    rotated = asyncio.Event()
    identity.on_rotate(rotated.set)
    async with client_channel(auth.address, identity, "auth") as channel:
        await identity.renew(renewer_over(channel))
    assert rotated.is_set()
    assert identity.credentials.names == before.names
    assert identity.private_key_pem != before.private_key_pem
    assert (tmp_path / "identity/key.pem").read_bytes() == identity.private_key_pem


async def test_a_revoked_certificate_is_listed_and_not_renewed(
    auth: Auth, make_identity: MakeIdentity, tmp_path: Path
) -> None:
    token = await auth.token("storage")
    identity = await WorkloadIdentity.obtain(settings(tmp_path, auth, token), "storage")
    serial = serial_hex(identity.credentials.leaf)
    revoked = await auth.certificates.revoke(OPERATOR, serial.upper())
    assert revoked.spiffe_id == str(identity.spiffe_id)
    async with client_channel(auth.address, identity, "auth") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await identity.renew(renewer_over(channel))
    assert reason(raised.value) == "CERTIFICATE_REVOKED"

    async with client_channel(auth.address, make_identity("registry"), "auth") as channel:
        stub = auth_pb2_grpc.CertificateServiceStub(channel)

        async def fetch() -> list[str]:
            answer = await stub.ListRevokedCertificates(auth_pb2.ListRevokedCertificatesRequest())
            return [one.serial_number for one in answer.revoked_certificates]

        denylist = Denylist(fetch)
        await denylist.refresh()
    assert serial in denylist
    auth.later = timedelta(days=2)
    assert await auth.certificates.revoked() == []


async def test_what_was_renewed_with_a_revoked_certificate_is_revoked(
    auth: Auth, tmp_path: Path
) -> None:
    """Whoever copied the key has renewed it by the time that somebody notices."""
    token = await auth.token("storage")
    identity = await WorkloadIdentity.obtain(settings(tmp_path, auth, token), "storage")
    first = serial_hex(identity.credentials.leaf)
    async with client_channel(auth.address, identity, "auth") as channel:
        await identity.renew(renewer_over(channel))
        await auth.certificates.revoke(OPERATOR, first)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await identity.renew(renewer_over(channel))
    assert reason(raised.value) == "CERTIFICATE_REVOKED"
    listed = {record.serial for record in await auth.certificates.revoked()}
    assert listed == {first, serial_hex(identity.credentials.leaf)}


async def test_a_jobs_certificate_ends_with_its_token(auth: Auth, tmp_path: Path) -> None:
    """It is renewed until then, and whoever copied its key has no longer either."""
    until = datetime.now(UTC) + timedelta(minutes=30)
    token = await auth.joining.create_job_token("services/training", "vision", "mnist-1", until)
    asked = settings(tmp_path, auth, token.text)
    identity = await WorkloadIdentity.open(
        SpiffeId.for_job(TRUST_DOMAIN, "vision", "mnist-1"),
        tmp_path / "identity",
        join_address=asked.join_address,
        join_token_file=asked.join_token_file,
    )
    async with client_channel(auth.address, identity, "auth") as channel:
        await identity.renew(renewer_over(channel))
        auth.later = timedelta(minutes=31)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await identity.renew(renewer_over(channel))
        assert reason(raised.value) == "CERTIFICATE_RENEWAL_ENDED"

        longer = until + timedelta(minutes=30)
        await auth.joining.create_job_token("services/training", "vision", "mnist-1", longer)
        await auth.joining.create_job_token("services/training", "vision", "mnist-1", until)
        await identity.renew(renewer_over(channel))


async def test_an_ended_certificate_is_replaced_by_joining_again(
    auth: Auth, tmp_path: Path, make_identity: MakeIdentity
) -> None:
    """As after a laptop slept: nobody accepts the old one, and the supervisor left a token."""
    asked = settings(tmp_path, auth, await auth.token("storage"))
    ended = make_identity("storage", seconds=-1).credentials
    identity = WorkloadIdentity(
        SpiffeId.for_service(TRUST_DOMAIN, "storage"),
        tmp_path / "identity",
        ended,
        join_address=asked.join_address,
        join_token_file=asked.join_token_file,
    )
    async with client_channel(auth.address, identity, "auth") as channel:
        await identity.renew(renewer_over(channel))
    assert identity.credentials.not_after > datetime.now(UTC)


def reason(error: grpc.aio.AioRpcError) -> str:
    translated = from_rpc_error(error)
    assert isinstance(translated, LeptonError)
    return translated.reason
