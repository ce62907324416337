"""Used time of slots, which stays when runs are deleted or moved."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.db.types import BigInt, UtcDateTime

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "slot_usage",
        sa.Column("id", BigInt, nullable=False),
        sa.Column("run_id", sa.String(length=16), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=100), nullable=False),
        sa.Column("project", sa.String(length=60), nullable=False),
        sa.Column("device", sa.String(length=8), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_slot_usage"),
    )
    op.create_index("ix_slot_usage_run_id_attempt", "slot_usage", ["run_id", "attempt"], unique=False)
    op.create_index("ix_slot_usage_ended_at", "slot_usage", ["ended_at"], unique=False)
    # What was counted until now. Rows of attempts that ended before the window are removed by the next "gc".
    op.execute(
        "INSERT INTO slot_usage (run_id, attempt, owner, project, device, slots, started_at, ended_at)"
        " SELECT a.run_id, a.number, l.owner, l.project, w.device, r.gpus, a.started_at, a.ended_at"
        " FROM attempts a JOIN runs r ON r.id = a.run_id JOIN queue_lanes l ON l.id = r.lane_id"
        " JOIN workers w ON w.id = a.worker_id"
    )


def downgrade() -> None:
    op.drop_index("ix_slot_usage_ended_at", table_name="slot_usage")
    op.drop_index("ix_slot_usage_run_id_attempt", table_name="slot_usage")
    op.drop_table("slot_usage")
