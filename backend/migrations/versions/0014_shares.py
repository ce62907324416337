"""Owners of runs, and their shares of the queue."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "shares",
        sa.Column("owner", sa.String(length=100), nullable=False),
        sa.Column("weight", sa.Double(), server_default="1", nullable=False),
        sa.CheckConstraint("weight > 0", name=op.f("ck_shares_weight")),
        sa.PrimaryKeyConstraint("owner", name="pk_shares"),
    )
    op.add_column("runs", sa.Column("owner", sa.String(length=100), server_default="", nullable=False))
    op.execute(
        "UPDATE runs SET owner = (SELECT submitted_by FROM experiments WHERE experiments.id = runs.experiment_id)"
        " WHERE experiment_id IS NOT NULL"
    )
    op.execute("INSERT INTO shares (owner) SELECT DISTINCT owner FROM runs")
    op.create_index("ix_runs_owner_claim", "runs", ["owner", "state", sa.text("priority DESC"), "id"], unique=False)
    op.create_index("ix_attempts_ended_at", "attempts", ["ended_at"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_attempts_ended_at", table_name="attempts")
    op.drop_index("ix_runs_owner_claim", table_name="runs")
    op.drop_column("runs", "owner")
    op.drop_table("shares")
