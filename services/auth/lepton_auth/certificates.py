"""Issuing, renewing and revoking the mesh's certificates.

What a certificate says comes from a join grant or from the certificate that renews, never from
the signing request, of which only the key counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec

from lepton_auth.accounts import FIRST_WORKSPACE
from lepton_auth.audit import Attempt, Auditor
from lepton_auth.certificate_records import CertificateRecord
from lepton_auth.errors import (
    CertificateRevoked,
    InvalidSerial,
    OperatorRequired,
    RenewalEnded,
)
from lepton_auth.ports import Records, Store
from lepton_auth.standing import require_password, require_standing
from lepton_mesh.caller import Caller, Role
from lepton_mesh.identity import Issued, Renewer
from lepton_mesh.peers import PeerCertificate
from lepton_mesh.pki import CertificateAuthority, Names, csr_public_key, serial_hex

# RFC 5280 section 4.1.2.2: at most 20 octets.
_SERIAL = re.compile(r"[0-9a-f]{1,40}")


class Certificates:
    """The issuing authority, with its books.

    Args:
        ttl: Life of a leaf; renewal is due at half of it.
    """

    def __init__(
        self,
        authority: CertificateAuthority,
        store: Store,
        auditor: Auditor,
        clock: Callable[[], datetime],
        ttl: timedelta,
    ) -> None:
        self.authority = authority
        self._store = store
        self._auditor = auditor
        self._clock = clock
        self._ttl = ttl

    def issue(
        self,
        records: Records,
        key: ec.EllipticCurvePublicKey,
        names: Names,
        *,
        family: str = "",
        renewable_until: datetime | None = None,
    ) -> Issued:
        """A certificate for ``key``, entered in ``records``.

        Args:
            family: Of the one that it replaces; empty for a first one.
            renewable_until: It is renewed until then; None: for as long as somebody renews it.
        """
        leaf = self.authority.issue(key, names, self._ttl)
        serial = serial_hex(leaf)
        records.certificates.add(
            CertificateRecord(
                serial,
                str(names.spiffe_id),
                leaf.not_valid_after_utc,
                family=family or serial,
                renewable_until=renewable_until,
            )
        )
        records.certificates.delete_expired(self._clock())
        return Issued(self.authority.chain_pem(leaf), self.authority.trust_bundle_pem)

    async def renew(self, csr: bytes, peer: PeerCertificate) -> Issued:
        """A certificate with the names of ``peer``.

        Raises:
            InvalidSigningRequest, CertificateRevoked, RenewalEnded
        """
        key = csr_public_key(csr)

        def renewed(records: Records) -> Issued:
            # The list that the peer check reads may be half a minute old.
            known = records.certificates.get(peer.serial)
            if known is not None and known.revoked is not None:
                raise CertificateRevoked(
                    f"certificate {peer.serial} was revoked; join again with a new token",
                    serial=peer.serial,
                )
            until = known.renewable_until if known else None
            if until is not None and until <= self._clock():
                raise RenewalEnded(
                    f"certificate {peer.serial} is renewed no longer: what it was issued for "
                    f"ended at {until:%Y-%m-%dT%H:%M:%SZ}",
                    serial=peer.serial,
                )
            return self.issue(
                records,
                key,
                peer.names,
                family=known.family if known else peer.serial,
                renewable_until=until,
            )

        return await self._store.write(renewed)

    async def revoke(
        self, caller: Caller, serial: str, *, by_password: bool = False
    ) -> CertificateRecord:
        """Puts a serial number (hex) on the denylist, also one that is not known; repeatable.

        With it goes all that descends from the same first certificate: whoever had the key may
        have renewed it by now.

        Raises:
            InvalidSerial, OperatorRequired, PasswordLoginRequired
        """
        require_operator(caller, by_password)
        serial = serial.lower().replace(":", "").lstrip("0")
        if not _SERIAL.fullmatch(serial):
            raise InvalidSerial("a serial number is up to 40 hex digits, not zero")
        # One that was not issued here cannot live longer than what is issued now.
        end = self._clock() + max(self._ttl, timedelta(days=1))
        attempt = Attempt(
            caller.subject, (FIRST_WORKSPACE,), "certificate.revoke", f"certificates/{serial}"
        )

        def revoked(records: Records) -> CertificateRecord:
            require_standing(records, caller, Role.ADMIN)
            known = records.certificates.get(serial)
            if known is None:  # not issued here, or the first of a family and forgotten since
                known = CertificateRecord(serial, "", end, family=serial)
                records.certificates.add(known)
            now = self._clock()
            records.certificates.revoke(known.family, now)
            return replace(known, revoked=known.revoked or now)

        return await self._auditor.change(attempt, revoked)

    async def revoked(self) -> Sequence[CertificateRecord]:
        """Revoked certificates that have not ended by themselves."""
        return await self._store.read(lambda records: records.certificates.revoked(self._clock()))


def own_renewer(authority: CertificateAuthority, names: Names, ttl: timedelta) -> Renewer:
    """Renews the auth service's own certificate, which nobody else could."""

    async def renew(csr: bytes) -> Issued:
        leaf = authority.issue(csr_public_key(csr), names, ttl)
        return Issued(authority.chain_pem(leaf), authority.trust_bundle_pem)

    return renew


def require_operator(caller: Caller, by_password: bool) -> None:
    """Lets through services on their own behalf, and callers in the first workspace.

    The mesh belongs to the whole installation: an admin of one workspace among several must not
    be able to take a service's identity, and with it everybody's data.

    Raises:
        OperatorRequired, PasswordLoginRequired
    """
    if caller.kind == "service":
        return
    require_password(by_password, "manage certificates")
    if caller.workspace != FIRST_WORKSPACE:
        raise OperatorRequired(
            "certificates are managed by the installation's operators; "
            f"log in to workspace '{FIRST_WORKSPACE}' as an admin",
            workspace=FIRST_WORKSPACE,
        )
