"""Endpoints."""

import sqlalchemy as sa
from alembic import op

from lepton_mesh.database import UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "endpoints",
        sa.Column("workspace", sa.String(63), primary_key=True),
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("targets", sa.JSON, nullable=False),
        sa.Column("max_rows", sa.Integer, nullable=False),
        sa.Column("max_delay_us", sa.Integer, nullable=False),
        sa.Column("max_queue", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("failure_reason", sa.String(64), nullable=False),
        sa.Column("failure_message", sa.String(1000), nullable=False),
        sa.Column("execution_provider", sa.String(64), nullable=False),
        sa.Column("description", sa.String(4000), nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("creator", sa.String(128), nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("updated", UtcDateTime, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("generation", sa.Integer, nullable=False),
    )
