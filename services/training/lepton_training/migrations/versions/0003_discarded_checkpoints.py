"""Checkpoints that are to be deleted from storage."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "discarded_checkpoints",
        sa.Column("workspace", sa.String(63), primary_key=True),
        sa.Column("artifact", sa.String(128), primary_key=True),
    )
