"""What each workspace has used lately."""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from lepton_mesh.database import UtcDateTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    usage = op.create_table(
        "workspace_usage",
        sa.Column("workspace", sa.String(63), primary_key=True),
        sa.Column("core_seconds", sa.Float(), nullable=False),
        sa.Column("time", UtcDateTime(), nullable=False),
    )
    workspaces = op.get_bind().execute(sa.text("SELECT DISTINCT workspace FROM jobs")).scalars()
    now = datetime.now(UTC)
    op.bulk_insert(
        usage, [{"workspace": one, "core_seconds": 0.0, "time": now} for one in workspaces]
    )
