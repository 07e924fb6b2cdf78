"""Shadows, ensembles, and endpoints that are kept unloaded."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("endpoints") as table:
        table.add_column(sa.Column("shadow", sa.JSON))
        table.add_column(sa.Column("ensemble", sa.JSON))
        table.add_column(
            sa.Column("unloaded", sa.Boolean, nullable=False, server_default=sa.false())
        )
