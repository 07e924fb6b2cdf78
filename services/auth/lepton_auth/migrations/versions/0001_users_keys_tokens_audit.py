"""Users, workspaces, roles, API keys, refresh tokens, audit."""

import sqlalchemy as sa
from alembic import op

from lepton_mesh.database import UtcDateTime

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("display_name", sa.String(200), nullable=False),
        sa.Column("password_hash", sa.String(256), nullable=False),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
    )
    op.create_table(
        "workspaces",
        sa.Column("id", sa.String(63), primary_key=True),
        sa.Column("display_name", sa.String(200), nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
    )
    op.create_table(
        "memberships",
        sa.Column("workspace", sa.String(63), sa.ForeignKey("workspaces.id"), primary_key=True),
        sa.Column(
            "user", sa.String(63), sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
        ),
        sa.Column("role", sa.Integer, nullable=False),
    )
    op.create_index("ix_memberships_user", "memberships", ["user"])
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column(
            "user", sa.String(63), sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("workspace", sa.String(63), sa.ForeignKey("workspaces.id"), nullable=False),
        sa.Column("role", sa.Integer, nullable=False),
        sa.Column("display_name", sa.String(200), nullable=False),
        sa.Column("secret_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("created", UtcDateTime, nullable=False),
        sa.Column("expires", UtcDateTime),
        sa.Column("last_used", UtcDateTime),
    )
    op.create_index("ix_api_keys_user", "api_keys", ["user"])
    op.create_index("ix_api_keys_owner", "api_keys", ["workspace", "user", "created", "id"])
    op.create_table(
        "refresh_tokens",
        sa.Column("digest", sa.LargeBinary(32), primary_key=True),
        sa.Column("family", sa.String(32), nullable=False),
        sa.Column(
            "user", sa.String(63), sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("workspace", sa.String(63), sa.ForeignKey("workspaces.id"), nullable=False),
        sa.Column("expires", UtcDateTime, nullable=False),
        sa.Column("used", sa.Boolean, nullable=False),
    )
    op.create_index("ix_refresh_tokens_family", "refresh_tokens", ["family"])
    op.create_index("ix_refresh_tokens_user", "refresh_tokens", ["user"])
    op.create_index("ix_refresh_tokens_expires", "refresh_tokens", ["expires"])
    op.create_table(
        "audit_events",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("workspace", sa.String(63), nullable=False),
        sa.Column("time", UtcDateTime, nullable=False),
        sa.Column("subject", sa.String(200), nullable=False),
        sa.Column("action", sa.String(64), nullable=False),
        sa.Column("resource", sa.String(300), nullable=False),
        sa.Column("allowed", sa.Boolean, nullable=False),
        sa.Column("reason", sa.String(64), nullable=False),
        sa.Column("trace_id", sa.String(32), nullable=False),
    )
    op.create_index("ix_audit_events_workspace", "audit_events", ["workspace", "id"])
