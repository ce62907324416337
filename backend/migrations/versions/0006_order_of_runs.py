"""An index with all that lists of runs are ordered by."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_runs_order", "runs", ["priority", "id", "started_at", "ended_at", "experiment_id"])


def downgrade() -> None:
    op.drop_index("ix_runs_order", table_name="runs")
