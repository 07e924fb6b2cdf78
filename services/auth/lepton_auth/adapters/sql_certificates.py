"""Join grants and certificates in SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from lepton_auth.certificate_records import CertificateRecord, JoinGrant
from lepton_auth.models import CertificateRow, JoinTokenRow
from lepton_mesh.pki import Names
from lepton_mesh.spiffe import SpiffeId


class SqlJoinGrants:
    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, digest: bytes) -> JoinGrant | None:
        row = self._session.get(JoinTokenRow, digest)
        return _grant(row, row.used) if row else None

    def add(self, grant: JoinGrant) -> None:
        self._session.add(
            JoinTokenRow(
                digest=grant.digest,
                spiffe_id=str(grant.names.spiffe_id),
                dns_names=list(grant.names.dns_names),
                ip_addresses=list(grant.names.ip_addresses),
                expires=grant.expires,
                used=grant.used,
                renewable_until=grant.renewable_until,
            )
        )
        self._session.flush()

    def use(self, digest: bytes, now: datetime) -> JoinGrant | None:
        # One statement decides who was first.
        first = self._session.execute(
            update(JoinTokenRow)
            .where(JoinTokenRow.digest == digest, JoinTokenRow.used.is_(None))
            .values(used=now)
            .returning(JoinTokenRow.digest)
        ).first()
        row = self._session.get(JoinTokenRow, digest, populate_existing=True)
        return _grant(row, row.used if first is None else None) if row else None

    def delete_expired(self, now: datetime) -> None:
        self._session.execute(delete(JoinTokenRow).where(JoinTokenRow.expires < now))


class SqlCertificates:
    def __init__(self, session: Session) -> None:
        self._session = session

    def get(self, serial: str) -> CertificateRecord | None:
        row = self._session.get(CertificateRow, serial)
        return _record(row) if row else None

    def add(self, record: CertificateRecord) -> None:
        self._session.add(
            CertificateRow(
                serial=record.serial,
                spiffe_id=record.spiffe_id,
                expires=record.expires,
                revoked=record.revoked,
                family=record.family,
                renewable_until=record.renewable_until,
            )
        )
        self._session.flush()

    def revoke(self, family: str, now: datetime) -> None:
        self._session.execute(
            update(CertificateRow)
            .where(CertificateRow.family == family, CertificateRow.revoked.is_(None))
            .values(revoked=now)
        )

    def revoked(self, now: datetime) -> Sequence[CertificateRecord]:
        rows = self._session.scalars(
            select(CertificateRow)
            .where(CertificateRow.revoked.is_not(None), CertificateRow.expires > now)
            .order_by(CertificateRow.revoked, CertificateRow.serial)
        )
        return [_record(row) for row in rows]

    def renew_until(self, spiffe_id: str, until: datetime) -> None:
        # NULL, which is without end, is before nothing.
        self._session.execute(
            update(CertificateRow)
            .where(CertificateRow.spiffe_id == spiffe_id, CertificateRow.renewable_until < until)
            .values(renewable_until=until)
        )

    def delete_expired(self, now: datetime) -> None:
        self._session.execute(delete(CertificateRow).where(CertificateRow.expires < now))


def _grant(row: JoinTokenRow, used: datetime | None) -> JoinGrant:
    names = Names(SpiffeId.parse(row.spiffe_id), tuple(row.dns_names), tuple(row.ip_addresses))
    return JoinGrant(row.digest, names, row.expires, used, row.renewable_until)


def _record(row: CertificateRow) -> CertificateRecord:
    return CertificateRecord(
        row.serial, row.spiffe_id, row.expires, row.revoked, row.family, row.renewable_until
    )
