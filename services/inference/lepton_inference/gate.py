"""Who may call the data plane, and in which workspace; written once for both adapters.

The peer has already shown a certificate of the mesh (Envoy or gRPC asks for it and hands its
SPIFFE id on). Here it is looked up among those that were revoked, the caller's token is
verified, the authorization table asked, and the caller's workspace found. What was found holds
for that token and certificate until the token expires or the certificate is revoked, and is
remembered: a busy client sends the same headers with every request.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from lepton.oip.v2 import open_inference_pb2
from lepton_inference.open_inference import HEALTH_SERVICE, SERVICES
from lepton_inference.serving import Admitted, Serving
from lepton_mesh.authorization import AuthorizationTable, Rule, authorize
from lepton_mesh.caller import Caller, Role
from lepton_mesh.claims import Claims, TokenInvalid, TokenMissing
from lepton_mesh.errors import Unauthenticated
from lepton_mesh.interceptors.server import token_caller
from lepton_mesh.peers import PeerRevoked
from lepton_mesh.spiffe import InvalidSpiffeId, SpiffeId

AUTHORIZATION = b"authorization"
FORWARDED_CERTIFICATE = b"x-forwarded-client-cert"
PEER_SERIAL = b"x-lepton-peer-serial"
"""The serial number of the peer's certificate in hex. Envoy sets it, or gRPC's own port, whatever a
client sends."""

_Key = tuple[bytes | None, bytes | None, bytes | None]

_PUBLIC = Rule(public=True)
_VIEWER = Rule(min_role=Role.VIEWER)
_DEVELOPER = Rule(min_role=Role.DEVELOPER)
_PUBLIC_METHODS = frozenset({"ServerLive", "ServerReady", "ServerMetadata"})
_RULES = {
    **dict.fromkeys(_PUBLIC_METHODS, _PUBLIC),
    "RepositoryModelLoad": _DEVELOPER,
    "RepositoryModelUnload": _DEVELOPER,
}
"""Those of methods that more or fewer than a viewer may call."""


def _data_plane_table() -> AuthorizationTable:
    methods = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods
    rules = {
        f"/{service}/{method.name}": _RULES.get(method.name, _VIEWER)
        for service in SERVICES
        for method in methods
    }
    return AuthorizationTable(rules | {f"/{HEALTH_SERVICE}/Check": _PUBLIC})


TABLE = _data_plane_table()
"""Who may call what on the data port. REST asks for the gRPC method that it stands for."""

PUBLIC_PATHS = frozenset(
    {f"/{HEALTH_SERVICE}/Check"}
    | {f"/{service}/{method}" for service in SERVICES for method in _PUBLIC_METHODS}
)
"""What anybody in the mesh may call without a token."""


class PeerUnknown(Unauthenticated):
    """The connection's other end has no identity in this mesh."""

    reason = "PEER_UNKNOWN"


class Gate(Protocol):
    """Admits callers to the data plane."""

    def known(self, headers: dict[bytes, bytes]) -> Admitted | None:
        """The caller who was admitted before with these headers; None to ask admit.

        For methods that a viewer may call, as those are that any token admits to.
        """
        ...

    async def admit(self, method: str, headers: dict[bytes, bytes]) -> Admitted:
        """The caller and their workspace; nobody, and an empty one, for public methods.

        Args:
            method: Full gRPC method name.
            headers: The request's, names in lower case.

        Raises:
            PeerUnknown, TokenMissing, TokenInvalid, TokenExpired: Who asks is not known.
            PeerRevoked, PeerTokenMismatch, PermissionDenied: They may not.
        """
        ...


class Verifier(Protocol):
    """Says what a token claims; see lepton_mesh.tokens.TokenVerifier."""

    async def verify(self, token: str) -> Claims: ...


Revoked = Callable[[str], bool]
"""Whether a certificate was revoked, by its serial number in lower-case hex, now."""


class TokenGate:
    """The gate of production: mTLS peers of one trust domain, and verified tokens."""

    _LIMIT = 4096

    def __init__(
        self, serving: Serving, verifier: Verifier, trust_domain: str, revoked: Revoked
    ) -> None:
        self._serving = serving
        self._verifier = verifier
        self._trust_domain = trust_domain
        self._revoked = revoked
        self._known: dict[_Key, Admitted] = {}

    def known(self, headers: dict[bytes, bytes]) -> Admitted | None:
        """See Gate."""
        key = _key(headers)
        found = self._known.get(key)
        if found is None:
            return None
        if found.expires <= time.time() or self._revoked(found.serial):
            del self._known[key]
            return None
        return found

    async def admit(self, method: str, headers: dict[bytes, bytes]) -> Admitted:
        """See Gate."""
        rule = TABLE.rule(method)
        peer = self._peer(headers.get(FORWARDED_CERTIFICATE))
        # As the denylist writes it; OpenSSL pads to whole bytes.
        serial = headers.get(PEER_SERIAL, b"").decode("latin-1").lower().lstrip("0")
        if self._revoked(serial):
            raise PeerRevoked(
                f"the certificate {serial} of {peer} was revoked; join again", peer=peer
            )
        if rule.public:
            return Admitted(Caller("anonymous", "", "", peer=peer), self._serving.workspace(""))
        token = _bearer(headers.get(AUTHORIZATION))
        claims = await self._verifier.verify(token)
        caller = token_caller(token, claims, peer)
        authorize(rule, caller, method)
        if len(self._known) >= self._LIMIT:
            self._known.clear()
        workspace = self._serving.workspace(claims.workspace)
        admitted = Admitted(caller, workspace, float(claims.expires), serial)
        self._known[_key(headers)] = admitted
        return admitted

    def _peer(self, forwarded: bytes | None) -> SpiffeId:
        """The SPIFFE id of the verified client certificate, from Envoy's header."""
        uri = ""
        for element in (forwarded or b"").decode("latin-1").split(";"):
            key, _, value = element.partition("=")
            if key.strip().lower() == "uri":
                uri = value.strip().strip('"')
        try:
            peer = SpiffeId.parse(uri)
        except InvalidSpiffeId:
            raise PeerUnknown("the connection has no client certificate of this mesh") from None
        if peer.trust_domain != self._trust_domain:
            raise PeerUnknown(
                f"the peer belongs to the trust domain '{peer.trust_domain}', "
                f"this service to '{self._trust_domain}'"
            )
        return peer


def _key(headers: dict[bytes, bytes]) -> _Key:
    return (
        headers.get(AUTHORIZATION),
        headers.get(FORWARDED_CERTIFICATE),
        headers.get(PEER_SERIAL),
    )


def _bearer(authorization: bytes | None) -> str:
    if not authorization:
        raise TokenMissing("send a token: 'authorization: Bearer <token>'; log in to get one")
    scheme, _, token = authorization.decode("latin-1").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise TokenInvalid("the authorization header is not 'Bearer <token>'")
    return token.strip()
