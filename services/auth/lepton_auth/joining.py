"""Join tokens: who may get a first certificate, and the exchange of one for the other."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from lepton_auth.accounts import FIRST_WORKSPACE
from lepton_auth.audit import Attempt, Auditor
from lepton_auth.certificate_records import JoinGrant
from lepton_auth.certificates import Certificates, require_operator
from lepton_auth.errors import InvalidLifetime, JoinTokenInvalid, NameReserved, ServiceNotJoinable
from lepton_auth.ports import Records, Store
from lepton_auth.standing import require_standing
from lepton_mesh.caller import Caller, Role
from lepton_mesh.identity import Issued
from lepton_mesh.join import JoinToken, decode_secret
from lepton_mesh.pki import Names, csr_public_key
from lepton_mesh.spiffe import SpiffeId, is_mesh_name

# The auth service issues its own certificate, the supervisor (etcd's administrator) and etcd get
# theirs from the offline command: none of them is to be had over the network.
JOINABLE = frozenset({"storage", "registry", "training", "inference", "gateway"})
WITH_OWN_NAMES = frozenset({"gateway"})
"""Services whose certificates may have names beyond the mesh's, as users see them."""
DEFAULT_SECONDS = 600
MAX_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class NewToken:
    """A join token, shown this once."""

    text: str = field(repr=False)
    expires: datetime


class Joining:
    """Makes join tokens, and trades them in."""

    def __init__(
        self,
        certificates: Certificates,
        store: Store,
        auditor: Auditor,
        clock: Callable[[], datetime],
        trust_domain: str,
    ) -> None:
        self._certificates = certificates
        self._store = store
        self._auditor = auditor
        self._clock = clock
        self._trust_domain = trust_domain

    async def create_service_token(
        self,
        caller: Caller,
        service: str,
        dns_names: Sequence[str] = (),
        ip_addresses: Sequence[str] = (),
        ttl_seconds: int = 0,
        *,
        by_password: bool = False,
    ) -> NewToken:
        """A token for a first certificate of ``service``; ``ttl_seconds`` 0 stands for 600.

        Args:
            by_password: Whether the caller's own token came from a password; users need one.

        Raises:
            OperatorRequired, PasswordLoginRequired, ServiceNotJoinable, NameReserved,
            InvalidLifetime, InvalidArgument
        """
        require_operator(caller, by_password)
        if service not in JOINABLE:
            raise ServiceNotJoinable(
                f"'{service}' cannot join by token; use one of {', '.join(sorted(JOINABLE))}, or "
                "`python -m lepton_auth issue` at the auth service for others"
            )
        if (dns_names or ip_addresses) and service not in WITH_OWN_NAMES:
            raise ServiceNotJoinable(
                f"service '{service}' has no names beyond the mesh's; leave dns_names and "
                "ip_addresses out"
            )
        if not 0 <= ttl_seconds <= MAX_SECONDS:
            raise InvalidLifetime(
                f"ttl_seconds {ttl_seconds} is out of range; use 1 to {MAX_SECONDS}"
            )
        spiffe_id = SpiffeId.for_service(self._trust_domain, service)
        names = Names(spiffe_id, _own_names(spiffe_id, dns_names), tuple(ip_addresses))
        attempt = Attempt(
            caller.subject, (FIRST_WORKSPACE,), "joinToken.create", f"services/{service}"
        )
        return await self._create(attempt, names, ttl_seconds, caller=caller)

    async def create_job_token(
        self, subject: str, workspace: str, job: str, renewable_until: datetime
    ) -> NewToken:
        """A token for the certificate of job id ``job`` in ``workspace``.

        Certificates that the job already has are renewed as long: a process that runs for longer
        than an access token holds gets a new access token, and does not join again.

        Args:
            renewable_until: When its access token runs out; the certificate goes on no longer.

        Raises:
            InvalidSpiffeId: One of the two is malformed.
        """
        names = Names(SpiffeId.for_job(self._trust_domain, workspace, job))
        attempt = Attempt(subject, (workspace,), "joinToken.create", f"jobs/{job}")
        return await self._create(attempt, names, 0, renewable_until=renewable_until)

    async def join(self, secret: str, csr: bytes) -> Issued:
        """Trades the secret part of a token for a certificate of what the token is for, once.

        Raises:
            JoinTokenInvalid: It is not known, was used, or has expired.
            InvalidSigningRequest: The token stays good.
        """
        key = csr_public_key(csr)
        digest = hash_secret(secret)
        known = await self._store.read(lambda records: records.join_grants.get(digest))
        if known is None:
            # Leaves no event: whoever reaches the listener could fill the disk with them.
            raise JoinTokenInvalid("the join token is not known here; create a new one")
        subject, workspace = _audited(known.names.spiffe_id)

        def joined(records: Records) -> Issued:
            now = self._clock()
            grant = records.join_grants.use(digest, now)
            if grant is None or grant.expires <= now:
                raise JoinTokenInvalid("the join token has expired; create a new one")
            if grant.used is not None:
                raise JoinTokenInvalid(
                    f"the join token was used at {grant.used:%Y-%m-%dT%H:%M:%SZ}; create a new "
                    "one, and find out by whom if that was not you"
                )
            return self._certificates.issue(
                records, key, grant.names, renewable_until=grant.renewable_until
            )

        attempt = Attempt(subject, (workspace,), "certificate.join", subject)
        return await self._auditor.change(attempt, joined)

    async def _create(
        self,
        attempt: Attempt,
        names: Names,
        ttl_seconds: int,
        *,
        caller: Caller | None = None,
        renewable_until: datetime | None = None,
    ) -> NewToken:
        names.san()  # refuses malformed names now rather than when the token is used
        token = JoinToken.create(names.spiffe_id, self._certificates.authority.root)
        now = self._clock()
        expires = now + timedelta(seconds=ttl_seconds or DEFAULT_SECONDS)
        grant = JoinGrant(
            hash_secret(token.encoded_secret), names, expires, renewable_until=renewable_until
        )

        def created(records: Records) -> NewToken:
            if caller is not None:
                require_standing(records, caller, Role.ADMIN)
            records.join_grants.delete_expired(now - timedelta(days=1))
            records.join_grants.add(grant)
            if renewable_until is not None:
                records.certificates.renew_until(str(names.spiffe_id), renewable_until)
            return NewToken(token.encode(), expires)

        return await self._auditor.change(attempt, created)


def hash_secret(secret: str) -> bytes:
    """SHA-256 of the secret part of a token; raises InvalidJoinToken if it cannot be one."""
    return hashlib.sha256(decode_secret(secret)).digest()


def _own_names(spiffe_id: SpiffeId, dns_names: Sequence[str]) -> tuple[str, ...]:
    """``dns_names`` without the service's own, which every certificate has.

    Peers know a server by its name in the mesh, so a certificate with another's would be taken
    for the other's.

    Raises:
        NameReserved
    """
    own = spiffe_id.dns_name
    names = tuple(name for name in dns_names if name.lower().removesuffix(".") != own)
    for name in names:
        if is_mesh_name(name) or "*" in name:
            raise NameReserved(
                f"'{name}' is no name that a join token can give: wildcards, and the mesh's own "
                f"names other than '{own}', are refused; name the hosts that users see",
                name=name,
            )
    return names


def _audited(spiffe_id: SpiffeId) -> tuple[str, str]:
    """How the audit names a workload, and the workspace whose admins may read of it."""
    if spiffe_id.job:
        return f"jobs/{spiffe_id.job}", spiffe_id.workspace or FIRST_WORKSPACE
    return f"services/{spiffe_id.service}", FIRST_WORKSPACE
