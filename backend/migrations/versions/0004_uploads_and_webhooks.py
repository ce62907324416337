"""Uploaded weights; messages to webhooks; when a run was last heard of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.db.types import BigInt, Json, UtcDateTime

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("reported_at", UtcDateTime(), nullable=True))
    op.add_column("experiments", sa.Column("webhook", sa.Text(), nullable=True))
    op.add_column(
        "experiments", sa.Column("webhook_state", sa.String(length=12), server_default="active", nullable=False)
    )
    op.create_index("ix_experiments_webhook_state", "experiments", ["webhook_state"], unique=False)
    op.create_table(
        "uploads",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("size", BigInt, nullable=False),
        sa.Column("tensors", sa.Integer(), nullable=False),
        sa.Column("parameters", BigInt, nullable=False),
        sa.Column("submitted_by", sa.String(length=100), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_uploads"),
        sa.UniqueConstraint("name", name="uq_uploads_name"),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("experiment_id", sa.String(length=16), nullable=False),
        sa.Column("event", sa.String(length=12), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("body", Json, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", UtcDateTime(), nullable=False),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name="fk_webhook_deliveries_experiment_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
    )
    op.create_index("ix_webhook_deliveries_due", "webhook_deliveries", ["done", "not_before"], unique=False)
    op.create_index("ix_webhook_deliveries_experiment_id", "webhook_deliveries", ["experiment_id"], unique=False)


def downgrade() -> None:
    op.drop_table("webhook_deliveries")
    op.drop_table("uploads")
    op.drop_index("ix_experiments_webhook_state", table_name="experiments")
    op.drop_column("experiments", "webhook_state")
    op.drop_column("experiments", "webhook")
    op.drop_column("runs", "reported_at")
