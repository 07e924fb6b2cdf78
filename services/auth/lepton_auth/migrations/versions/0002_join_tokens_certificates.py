"""Join tokens, certificates."""

import sqlalchemy as sa
from alembic import op

from lepton_mesh.database import UtcDateTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "join_tokens",
        sa.Column("digest", sa.LargeBinary(32), primary_key=True),
        sa.Column("spiffe_id", sa.String(400), nullable=False),
        sa.Column("dns_names", sa.JSON, nullable=False),
        sa.Column("ip_addresses", sa.JSON, nullable=False),
        sa.Column("expires", UtcDateTime, nullable=False),
        sa.Column("used", UtcDateTime),
    )
    op.create_index("ix_join_tokens_expires", "join_tokens", ["expires"])
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(40), primary_key=True),
        sa.Column("spiffe_id", sa.String(400), nullable=False),
        sa.Column("expires", UtcDateTime, nullable=False),
        sa.Column("revoked", UtcDateTime),
    )
    op.create_index("ix_certificates_expires", "certificates", ["expires"])
    op.create_index("ix_certificates_revoked", "certificates", ["revoked"])
