"""Objects that are to be deleted from the object store."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table("condemned_objects", sa.Column("id", sa.String(32), primary_key=True))
