"""CertificateService: each method parses its request, calls the domain and converts the answer."""

from __future__ import annotations

from typing import Any

from lepton.api.auth.v1 import auth_pb2 as pb
from lepton.api.auth.v1 import auth_pb2_grpc
from lepton_auth.certificate_convert import bundle_message, revoked_message
from lepton_auth.certificates import Certificates
from lepton_auth.convert import timestamp
from lepton_auth.joining import Joining
from lepton_auth.tokens import TokenMint
from lepton_auth.verified_tokens import by_password
from lepton_mesh.authorization import AuthorizationTable, Rule
from lepton_mesh.caller import Role, current_caller
from lepton_mesh.errors import Unauthenticated
from lepton_mesh.peers import PeerCertificate, peer_certificate
from lepton_mesh.resources import parse_name

_METHOD = "/lepton.api.auth.v1.CertificateService/"
_SUPERVISOR = frozenset({"supervisor"})
_NOBODY = Rule()

# Join alone is for newcomers, who have no certificate: it is served on the join listener, and
# nothing else is there; on the mesh's own port it is nobody's.
TABLE = AuthorizationTable(
    {
        _METHOD + "Join": _NOBODY,
        _METHOD + "RenewCertificate": Rule(peers=True),
        _METHOD + "CreateJoinToken": Rule(min_role=Role.ADMIN, services=_SUPERVISOR),
        _METHOD + "IssueJobCredentials": Rule(services=frozenset({"training"})),
        _METHOD + "GetTrustBundle": Rule(min_role=Role.VIEWER, peers=True),
        _METHOD + "RevokeCertificate": Rule(min_role=Role.ADMIN),
        _METHOD + "ListRevokedCertificates": Rule(min_role=Role.ADMIN, peers=True),
    }
)
JOIN_TABLE = AuthorizationTable(
    {method: Rule(public=True) if method.endswith("/Join") else _NOBODY for method in TABLE}
)


class NoPeerCertificate(Unauthenticated):
    reason = "NO_PEER_CERTIFICATE"


class CertificateServicer(auth_pb2_grpc.CertificateServiceServicer):
    """Certificates of the mesh; on the join listener too, where the table allows Join only."""

    def __init__(self, certificates: Certificates, joining: Joining, mint: TokenMint) -> None:
        self._certificates = certificates
        self._joining = joining
        self._mint = mint

    async def Join(self, request: pb.JoinRequest, context: Any) -> pb.CertificateBundle:
        return bundle_message(await self._joining.join(request.secret, request.csr))

    async def RenewCertificate(
        self, request: pb.RenewCertificateRequest, context: Any
    ) -> pb.CertificateBundle:
        return bundle_message(await self._certificates.renew(request.csr, _peer(context)))

    async def CreateJoinToken(
        self, request: pb.CreateJoinTokenRequest, context: Any
    ) -> pb.CreateJoinTokenResponse:
        caller = current_caller()
        token = await self._joining.create_service_token(
            caller,
            request.service,
            request.dns_names,
            request.ip_addresses,
            request.ttl_seconds,
            by_password=by_password(caller),
        )
        return pb.CreateJoinTokenResponse(
            join_token=token.text, expire_time=timestamp(token.expires)
        )

    async def IssueJobCredentials(
        self, request: pb.IssueJobCredentialsRequest, context: Any
    ) -> pb.IssueJobCredentialsResponse:
        caller = current_caller()
        (job,) = parse_name("jobs/{job}", request.job)
        access_token, expires = self._mint.job_token(
            caller.workspace,
            request.job,
            reads=request.reads,
            writes=request.writes,
            ttl_seconds=request.ttl_seconds,
        )
        token = await self._joining.create_job_token(caller.subject, caller.workspace, job, expires)
        return pb.IssueJobCredentialsResponse(
            join_token=token.text, access_token=access_token, expire_time=timestamp(expires)
        )

    async def GetTrustBundle(
        self, request: pb.GetTrustBundleRequest, context: Any
    ) -> pb.TrustBundle:
        return pb.TrustBundle(
            trust_bundle_pem=self._certificates.authority.trust_bundle_pem.decode()
        )

    async def RevokeCertificate(
        self, request: pb.RevokeCertificateRequest, context: Any
    ) -> pb.RevokedCertificate:
        caller = current_caller()
        return revoked_message(
            await self._certificates.revoke(
                caller, request.serial_number, by_password=by_password(caller)
            )
        )

    async def ListRevokedCertificates(
        self, request: pb.ListRevokedCertificatesRequest, context: Any
    ) -> pb.ListRevokedCertificatesResponse:
        revoked = await self._certificates.revoked()
        return pb.ListRevokedCertificatesResponse(
            revoked_certificates=[revoked_message(record) for record in revoked]
        )


def _peer(context: Any) -> PeerCertificate:
    peer = peer_certificate(context.auth_context())
    if peer is None:
        raise NoPeerCertificate("renewal needs the certificate that is renewed; join instead")
    return peer
