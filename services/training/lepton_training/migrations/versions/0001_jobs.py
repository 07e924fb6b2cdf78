"""Jobs and their events."""

import sqlalchemy as sa
from alembic import op

from lepton_mesh.database import UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("workspace", sa.String(63), primary_key=True),
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("node", sa.String(64), nullable=False),
        sa.Column("request_id", sa.String(128)),
        sa.Column("create_time", UtcDateTime(), nullable=False),
        sa.Column("last_sequence", sa.Integer(), nullable=False),
        sa.Column("record", sa.JSON(), nullable=False),
        sa.UniqueConstraint("workspace", "request_id", name="uq_jobs_request"),
    )
    op.create_index("ix_jobs_state", "jobs", ["state", "create_time"])
    op.create_index("ix_jobs_newest", "jobs", ["workspace", "create_time", "id"])
    op.create_table(
        "job_events",
        sa.Column("workspace", sa.String(63), primary_key=True),
        sa.Column("job_id", sa.String(63), primary_key=True),
        sa.Column("sequence", sa.Integer(), primary_key=True),
        sa.Column("time", UtcDateTime(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["workspace", "job_id"], ["jobs.workspace", "jobs.id"], ondelete="CASCADE"
        ),
    )
