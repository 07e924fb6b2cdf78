"""All settings of an endpoint in one column."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_OLD = ("max_rows", "max_delay_us", "max_queue")


def upgrade() -> None:
    with op.batch_alter_table("endpoints") as table:
        table.add_column(sa.Column("settings", sa.JSON, nullable=False, server_default="{}"))
    endpoints = sa.table(
        "endpoints",
        sa.column("workspace"),
        sa.column("id"),
        sa.column("settings", sa.JSON),
        *[sa.column(name) for name in _OLD],
    )
    connection = op.get_bind()
    for row in connection.execute(sa.select(endpoints)).mappings().all():
        batching = {
            "max_rows": row["max_rows"],
            "max_delay_seconds": row["max_delay_us"] / 1e6,
            "max_queue": row["max_queue"],
        }
        connection.execute(
            endpoints.update()
            .where(endpoints.c.workspace == row["workspace"], endpoints.c.id == row["id"])
            .values(settings={"batching": batching})
        )
    with op.batch_alter_table("endpoints") as table:
        for name in _OLD:
            table.drop_column(name)
