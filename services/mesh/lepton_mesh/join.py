"""The first certificate: a one-time token, and a first contact that is pinned.

A join token carries 256 bits that only the auth service's database knows (as a hash), the
workload it is for, and the SHA-256 fingerprint of the mesh's root. Who joins has no root
certificate yet: it takes the one that the join listener sends along, accepts it only if it
has that fingerprint, and then makes an ordinary, verified TLS connection with it. The secret
goes over that second connection alone.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import socket
import ssl
import sys
from dataclasses import dataclass, field
from typing import Self

import grpc
from cryptography import x509

from lepton.api.auth.v1 import auth_pb2, auth_pb2_grpc
from lepton_mesh import base64url
from lepton_mesh.errors import InvalidArgument, Unauthenticated, Unavailable
from lepton_mesh.pki import (
    Credentials,
    certificate_pem,
    fingerprint,
    generate_key,
    key_pem,
    make_csr,
)
from lepton_mesh.spiffe import InvalidSpiffeId, SpiffeId, dns_name

PREFIX = "lpj_"
_FORM = re.compile(r"lpj_([\w-]{43})\.([\w-]{43})\.(.{1,400})", re.ASCII)
_CONTACT_SECONDS = 5.0
_CALL_SECONDS = 20.0


class InvalidJoinToken(InvalidArgument):
    """The text is no join token, or one for another workload."""

    reason = "JOIN_TOKEN_MALFORMED"


class AuthorityNotPinned(Unauthenticated):
    """The join listener does not belong to the mesh that the token is for."""

    reason = "AUTHORITY_NOT_PINNED"


class JoinRefused(Unauthenticated):
    """The auth service did not accept the token."""

    reason = "JOIN_REFUSED"


class JoinUnavailable(Unavailable):
    """The join listener cannot be reached or does not answer."""

    reason = "JOIN_UNAVAILABLE"


@dataclass(frozen=True)
class JoinToken:
    """What lets one workload in, once."""

    secret: bytes = field(repr=False)
    """32 random bytes."""
    root_fingerprint: bytes
    """SHA-256 of the root certificate's DER form."""
    spiffe_id: SpiffeId

    @classmethod
    def create(cls, spiffe_id: SpiffeId, root: x509.Certificate) -> Self:
        return cls(secrets.token_bytes(32), fingerprint(root), spiffe_id)

    def encode(self) -> str:
        """``lpj_<secret>.<root fingerprint>.<spiffe id>``; a secret."""
        root = base64url.encode(self.root_fingerprint)
        return f"{PREFIX}{self.encoded_secret}.{root}.{self.spiffe_id}"

    @classmethod
    def decode(cls, text: str) -> Self:
        """
        Raises:
            InvalidJoinToken: ``text``, which the message does not repeat, has another form.
        """
        match = _FORM.fullmatch(text.strip())
        try:
            if match:
                return cls(
                    decode_secret(match[1]), decode_secret(match[2]), SpiffeId.parse(match[3])
                )
        except InvalidSpiffeId:
            pass
        raise InvalidJoinToken(
            "this is not a join token, or not all of it; "
            "create one with `python -m lepton_auth join-token --service <service>`"
        )

    @property
    def encoded_secret(self) -> str:
        """The secret as the Join call carries it."""
        return base64url.encode(self.secret)


def decode_secret(text: str) -> bytes:
    """The inverse of :attr:`JoinToken.encoded_secret`.

    Raises:
        InvalidJoinToken: Not 32 bytes in unpadded base64url.
    """
    try:
        value = base64url.decode(text)
    except ValueError:
        value = b""
    if len(value) != 32:
        raise InvalidJoinToken("the secret of a join token is 32 bytes in base64url")
    return value


async def join(address: str, token: JoinToken) -> Credentials:
    """Trades ``token`` for credentials at the join listener ``address`` (``host:port``).

    Raises:
        AuthorityNotPinned: The listener's root is not the token's; nothing was sent to it.
        JoinRefused: The token is unknown, used, expired.
        JoinUnavailable: No answer; the token may have been used up by a lost one.
    """
    root = await asyncio.to_thread(_pinned_root, address, token.root_fingerprint)
    trust_bundle = certificate_pem(root)
    key = generate_key()
    options = [("grpc.ssl_target_name_override", dns_name("auth"))]
    async with grpc.aio.secure_channel(
        address, grpc.ssl_channel_credentials(trust_bundle), options=options
    ) as channel:
        request = auth_pb2.JoinRequest(secret=token.encoded_secret, csr=make_csr(key))
        try:
            bundle = await auth_pb2_grpc.CertificateServiceStub(channel).Join(
                request, timeout=_CALL_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            raise _explain(address, error) from None
    credentials = Credentials(
        key_pem(key), bundle.certificate_chain_pem.encode(), bundle.trust_bundle_pem.encode()
    )
    credentials.verify()
    if credentials.names.spiffe_id != token.spiffe_id:
        raise JoinRefused(
            f"the join token is for {token.spiffe_id}, but the auth service issued a certificate "
            f"for {credentials.names.spiffe_id}; create a new token"
        )
    return credentials


def _explain(address: str, error: grpc.aio.AioRpcError) -> JoinRefused | JoinUnavailable:
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        return JoinUnavailable(
            f"the join listener {address} gave no answer ({error.code().name.lower()}); "
            "is the auth service running, and is LEPTON_JOIN_ADDRESS right?"
        )
    return JoinRefused(f"joining at {address} was refused: {error.details()}")


def _pinned_root(address: str, expected: bytes) -> x509.Certificate:
    """The certificate with fingerprint ``expected`` in the chain that ``address`` sends."""
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nothing is trusted or sent here: this connection only fetches public certificates.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host.strip("[]"), int(port)), _CONTACT_SECONDS) as plain,
            context.wrap_socket(plain) as connection,
        ):
            chain = _chain(connection)
    except (OSError, ValueError) as error:
        raise JoinUnavailable(
            f"cannot make a TLS connection to the join listener '{address}' ({error}); "
            "is the auth service running, and is LEPTON_JOIN_ADDRESS right?"
        ) from error
    for certificate in chain:
        if fingerprint(certificate) == expected:
            return certificate
    raise AuthorityNotPinned(
        f"the auth service at {address} does not belong to the mesh that the join token is for "
        "(no certificate in its chain has the pinned fingerprint); "
        "check LEPTON_JOIN_ADDRESS, or create a token at that service"
    )


def _chain(connection: ssl.SSLSocket) -> list[x509.Certificate]:
    """Every certificate that the server sent."""
    if sys.version_info >= (3, 13):
        return [x509.load_der_x509_certificate(one) for one in connection.get_unverified_chain()]
    chain = connection._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # public in 3.13
    return [x509.load_pem_x509_certificate(one.public_bytes().encode()) for one in chain]
