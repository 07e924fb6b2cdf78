"""Artifacts that something needs and that are not deleted therefore."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    row_number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "artifact_holds",
        sa.Column("hold", sa.String(32), primary_key=True),
        sa.Column(
            "artifact_sequence", row_number, sa.ForeignKey("artifacts.sequence"), primary_key=True
        ),
        sa.Column("holder", sa.String(255), nullable=False),
    )
    op.create_index("ix_artifact_holds_artifact_sequence", "artifact_holds", ["artifact_sequence"])
