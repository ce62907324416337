"""Lanes of the queue, quotas of projects, sizes of stored files, and indexes of waiting runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.db.types import BigInt

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_LEASED = sa.text("state IN ('running','cancelling')")
_WAITING = sa.text("state IN ('waiting','queued','paused') AND reason = ''")
_EXPLAINED = sa.text("state IN ('waiting','queued','paused') AND reason <> ''")
_UNMEASURED = sa.text("stored_bytes IS NULL")


def upgrade() -> None:
    op.create_table(
        "queue_lanes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(length=100), nullable=False),
        sa.Column("project", sa.String(length=60), nullable=False),
        sa.Column("device", sa.String(length=8), nullable=False),
        sa.Column("gpus", sa.Integer(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_queue_lanes"),
        sa.UniqueConstraint(
            "owner", "project", "device", "gpus", "labels", name="uq_queue_lanes_owner_project_device_gpus_labels"
        ),
    )
    op.create_index("ix_queue_lanes_project", "queue_lanes", ["project"], unique=False)
    op.add_column("runs", sa.Column("lane_id", sa.Integer(), server_default="0", nullable=False))
    op.execute(
        "INSERT INTO queue_lanes (owner, project, device, gpus, labels)"
        " SELECT DISTINCT r.owner, coalesce(e.project, 'default'), r.device, r.gpus, r.labels"
        " FROM runs r LEFT JOIN experiments e ON e.id = r.experiment_id"
    )
    op.execute(
        "UPDATE runs SET lane_id = (SELECT l.id FROM queue_lanes l WHERE l.owner = runs.owner"
        " AND l.project = coalesce((SELECT e.project FROM experiments e WHERE e.id = runs.experiment_id), 'default')"
        " AND l.device = runs.device AND l.gpus = runs.gpus AND l.labels = runs.labels)"
    )
    op.drop_index("ix_runs_owner_claim", table_name="runs")
    op.drop_index("ix_runs_claim", table_name="runs")
    op.create_index("ix_runs_state", "runs", ["state"], unique=False)
    op.create_index("ix_runs_lane_claim", "runs", ["lane_id", "state", sa.text("priority DESC"), "id"], unique=False)
    op.create_index(
        "ix_runs_leased", "runs", ["lane_id", "gpus"], unique=False, sqlite_where=_LEASED, postgresql_where=_LEASED
    )
    op.create_index(
        "ix_runs_waiting",
        "runs",
        ["experiment_id", "state", "lane_id", "teacher_run_id", "priority", "created_at", "not_before", "id"],
        unique=False,
        sqlite_where=_WAITING,
        postgresql_where=_WAITING,
    )
    op.create_index(
        "ix_runs_explained",
        "runs",
        ["experiment_id"],
        unique=False,
        sqlite_where=_EXPLAINED,
        postgresql_where=_EXPLAINED,
    )
    op.add_column("projects", sa.Column("slots_limit", sa.Integer(), nullable=True))
    op.add_column("projects", sa.Column("gpu_hours_limit", sa.Double(), nullable=True))
    op.add_column("projects", sa.Column("disk_limit", BigInt, nullable=True))
    op.add_column("attempts", sa.Column("stored_bytes", BigInt, nullable=True))
    op.create_index(
        "ix_attempts_unmeasured",
        "attempts",
        ["ended_at"],
        unique=False,
        sqlite_where=_UNMEASURED,
        postgresql_where=_UNMEASURED,
    )


def downgrade() -> None:
    op.drop_index("ix_attempts_unmeasured", table_name="attempts")
    op.drop_column("attempts", "stored_bytes")
    for column in ("disk_limit", "gpu_hours_limit", "slots_limit"):
        op.drop_column("projects", column)
    op.drop_index("ix_runs_explained", table_name="runs")
    op.drop_index("ix_runs_waiting", table_name="runs")
    op.drop_index("ix_runs_leased", table_name="runs")
    op.drop_index("ix_runs_lane_claim", table_name="runs")
    op.drop_index("ix_runs_state", table_name="runs")
    op.create_index("ix_runs_claim", "runs", ["state", sa.text("priority DESC"), "id"], unique=False)
    op.create_index("ix_runs_owner_claim", "runs", ["owner", "state", sa.text("priority DESC"), "id"], unique=False)
    op.drop_column("runs", "lane_id")
    op.drop_table("queue_lanes")
