"""Keys, blobs, uploads, datasets, versions, files, artifacts."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_TIME = sa.DateTime(timezone=True)
_ROW_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "workspace_keys",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("workspace", sa.String(128), nullable=False),
        sa.Column("current", sa.String(128), unique=True),
        sa.Column("kek_id", sa.String(128), nullable=False),
        sa.Column("wrapped", sa.LargeBinary),
    )
    op.create_index("ix_workspace_keys_workspace", "workspace_keys", ["workspace"])
    op.create_table(
        "blobs",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("workspace", sa.String(128), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("key_id", sa.String(32), sa.ForeignKey("workspace_keys.id"), nullable=False),
        sa.UniqueConstraint("workspace", "sha256", "key_id", name="uq_blobs_content"),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("workspace", sa.String(128), nullable=False),
        sa.Column("creator", sa.String(256), nullable=False),
        sa.Column("request_id", sa.String(128)),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
        sa.Column("expire_time", _TIME, nullable=False),
        sa.Column("blob_id", sa.String(32), sa.ForeignKey("blobs.id")),
        sa.UniqueConstraint("workspace", "creator", "request_id", name="uq_uploads_request"),
    )
    op.create_index("ix_uploads_expire_time", "uploads", ["expire_time"])
    op.create_index("ix_uploads_blob_id", "uploads", ["blob_id"])
    op.create_table(
        "datasets",
        sa.Column("uid", _ROW_NUMBER, primary_key=True),
        sa.Column("workspace", sa.String(128), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("creator", sa.String(256), nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
        sa.Column("latest", sa.Integer, nullable=False),
        sa.UniqueConstraint("workspace", "name", name="uq_datasets_name"),
    )
    op.create_table(
        "dataset_versions",
        sa.Column("uid", _ROW_NUMBER, primary_key=True),
        sa.Column(
            "dataset_uid",
            _ROW_NUMBER,
            sa.ForeignKey("datasets.uid", ondelete="CASCADE"),
            nullable=False,
        ),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("format", sa.String(16), nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("manifest", sa.LargeBinary, nullable=False),
        sa.Column("signature", sa.String(128), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("statistics", sa.JSON, nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("creator", sa.String(256), nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
        sa.UniqueConstraint("dataset_uid", "number", name="uq_dataset_versions_number"),
        sa.UniqueConstraint("dataset_uid", "digest", name="uq_dataset_versions_digest"),
    )
    op.create_table(
        "dataset_files",
        sa.Column(
            "version_uid",
            _ROW_NUMBER,
            sa.ForeignKey("dataset_versions.uid", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("path", sa.String(1024), primary_key=True),
        sa.Column("media_type", sa.String(255), nullable=False),
        sa.Column("blob_id", sa.String(32), sa.ForeignKey("blobs.id"), nullable=False),
    )
    op.create_index("ix_dataset_files_blob_id", "dataset_files", ["blob_id"])
    op.create_table(
        "artifacts",
        sa.Column("sequence", _ROW_NUMBER, primary_key=True),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("workspace", sa.String(128), nullable=False),
        sa.Column("media_type", sa.String(255), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("source", sa.String(255), nullable=False),
        sa.Column("labels", sa.JSON, nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
        sa.Column("blob_id", sa.String(32), sa.ForeignKey("blobs.id"), nullable=False),
    )
    op.create_index("ix_artifacts_workspace", "artifacts", ["workspace", "sequence"])
    op.create_index("ix_artifacts_blob_id", "artifacts", ["blob_id"])
