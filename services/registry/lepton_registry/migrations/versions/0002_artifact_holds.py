"""What the registry holds in storage for its versions, those registered before included."""

import uuid

import sqlalchemy as sa
from alembic import op

from lepton_mesh.database import UtcDateTime

revision = "0002"
down_revision = "0001"

_KEPT = 2  # a version has the files


def upgrade() -> None:
    holds = op.create_table(
        "artifact_holds",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("workspace", sa.String(63), nullable=False),
        sa.Column("model", sa.String(63), nullable=False),
        sa.Column("artifacts", sa.JSON, nullable=False),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("held", sa.Boolean, nullable=False),
        sa.Column("since", UtcDateTime, nullable=False),
    )
    op.create_index("ix_artifact_holds_model", "artifact_holds", ["workspace", "model"])
    op.create_index("ix_artifact_holds_phase", "artifact_holds", ["phase", "held"])
    versions = sa.table(
        "model_versions",
        sa.column("workspace", sa.String),
        sa.column("model", sa.String),
        sa.column("artifact", sa.String),
        sa.column("attachments", sa.JSON),
        sa.column("created", UtcDateTime),
    )
    op.bulk_insert(
        holds,
        [
            {
                "id": uuid.uuid4().hex,
                "workspace": row.workspace,
                "model": row.model,
                "artifacts": sorted({row.artifact, *row.attachments.values()}),
                "phase": _KEPT,
                "held": False,
                "since": row.created,
            }
            for row in op.get_bind().execute(sa.select(versions))
        ],
    )
