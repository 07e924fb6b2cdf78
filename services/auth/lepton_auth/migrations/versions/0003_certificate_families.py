"""Whom a certificate descends from, and how long it is renewed; audit events beyond 32 bits."""

import sqlalchemy as sa
from alembic import op

from lepton_mesh.database import UtcDateTime

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("join_tokens", sa.Column("renewable_until", UtcDateTime))
    op.add_column("certificates", sa.Column("renewable_until", UtcDateTime))
    op.add_column(
        "certificates", sa.Column("family", sa.String(40), nullable=False, server_default="")
    )
    # Until now nobody wrote down which one another was renewed with.
    op.execute("UPDATE certificates SET family = serial")
    op.create_index("ix_certificates_family", "certificates", ["family"])
    if op.get_bind().dialect.name == "postgresql":  # SQLite's have 64 bits
        op.alter_column("audit_events", "id", type_=sa.BigInteger)
