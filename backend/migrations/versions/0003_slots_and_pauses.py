"""Several GPUs, labels, pauses, draining workers, claims that may be sent twice."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.db.types import Json, UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Every new column is nullable or has a default of the database's own, so that SQLite adds it in place: altering a table
# by copying would drop the old one, and with it, by its cascades, every metric.


def upgrade() -> None:
    op.add_column("runs", sa.Column("gpus", sa.Integer(), server_default="1", nullable=False))
    op.add_column("runs", sa.Column("labels", sa.Text(), server_default=",", nullable=False))
    op.add_column("runs", sa.Column("pausing", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("runs", sa.Column("queued_at", UtcDateTime(), nullable=True))
    op.add_column("attempts", sa.Column("claim_key", sa.String(length=64), nullable=True))
    op.add_column("attempts", sa.Column("waited", sa.Double(), nullable=True))
    op.create_index("uq_attempts_claim", "attempts", ["worker_id", "claim_key"], unique=True)
    op.add_column("workers", sa.Column("gpus", sa.Integer(), server_default="0", nullable=False))
    op.add_column("workers", sa.Column("labels", Json, server_default="[]", nullable=False))
    op.add_column("workers", sa.Column("draining", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("workers", sa.Column("report", Json, server_default="{}", nullable=False))
    op.add_column("workers", sa.Column("reserved_run_id", sa.String(length=16), nullable=True))
    op.execute("UPDATE runs SET queued_at = created_at WHERE state = 'queued'")
    op.execute("UPDATE workers SET gpus = slots WHERE device = 'gpu'")


def downgrade() -> None:
    for name in ("reserved_run_id", "report", "draining", "labels", "gpus"):
        op.drop_column("workers", name)
    op.drop_index("uq_attempts_claim", table_name="attempts")
    for name in ("waited", "claim_key"):
        op.drop_column("attempts", name)
    for name in ("queued_at", "pausing", "labels", "gpus"):
        op.drop_column("runs", name)
