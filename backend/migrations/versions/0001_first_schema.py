"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.db.types import BigInt, Json, UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "experiments",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("spec", Json, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_experiments"),
        sa.UniqueConstraint("name", name="uq_experiments_name"),
    )
    op.create_table(
        "metric_names",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_metric_names"),
        sa.UniqueConstraint("name", name="uq_metric_names_name"),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("scopes", Json, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("revoked_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
        sa.UniqueConstraint("sha256", name="uq_tokens_sha256"),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=120), nullable=False),
        sa.Column("host", sa.String(length=200), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(length=8), nullable=False),
        sa.Column("version", sa.String(length=100), nullable=False),
        sa.Column("state", sa.String(length=8), nullable=False),
        sa.Column("registered_at", UtcDateTime(), nullable=False),
        sa.Column("last_heartbeat", UtcDateTime(), nullable=False),
        sa.CheckConstraint("state IN ('online','offline')", name=op.f("ck_workers_state")),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("token_id", sa.String(length=16), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("body_sha256", sa.String(length=64), nullable=False),
        sa.Column("experiment_id", sa.String(length=16), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name="fk_idempotency_keys_experiment_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name="fk_idempotency_keys_token_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_idempotency_keys"),
        sa.UniqueConstraint("token_id", "key", name="uq_idempotency_keys_token_id_key"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False)
    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("experiment_id", sa.String(length=16), nullable=True),
        sa.Column("fingerprint", sa.String(length=48), nullable=False),
        sa.Column("role", sa.String(length=8), nullable=False),
        sa.Column("label", sa.String(length=60), nullable=False),
        sa.Column("dataset", sa.String(length=100), nullable=False),
        sa.Column("model", sa.String(length=100), nullable=False),
        sa.Column("method", sa.String(length=100), nullable=False),
        sa.Column("seed", BigInt, nullable=False),
        sa.Column("spec", Json, nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("log_tail", Json, nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(length=8), nullable=False),
        sa.Column("not_before", UtcDateTime(), nullable=True),
        sa.Column("teacher_run_id", sa.String(length=16), nullable=True),
        sa.Column("teacher_failed", sa.Boolean(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("faults", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.String(length=64), nullable=True),
        sa.Column("lease_expires_at", UtcDateTime(), nullable=True),
        sa.Column("checkpoint_path", sa.Text(), nullable=False),
        sa.Column("checkpoint_step", BigInt, nullable=False),
        sa.Column("weights_path", sa.Text(), nullable=False),
        sa.Column("weights_sha256", sa.String(length=64), nullable=False),
        sa.Column("step", BigInt, nullable=False),
        sa.Column("total_steps", BigInt, nullable=False),
        sa.Column("epoch", sa.Double(), nullable=False),
        sa.Column("total_epochs", sa.Integer(), nullable=False),
        sa.Column("train_size", sa.Integer(), nullable=False),
        sa.Column("test_size", sa.Integer(), nullable=False),
        sa.Column("parameters", BigInt, nullable=False),
        sa.Column("environment", Json, nullable=False),
        sa.Column("ingest", BigInt, nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=True),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.CheckConstraint("device IN ('any','cpu','gpu')", name=op.f("ck_runs_device")),
        sa.CheckConstraint("role IN ('teacher','student')", name=op.f("ck_runs_role")),
        sa.CheckConstraint(
            "state IN ('waiting','queued','paused','running','cancelling','succeeded','failed','cancelled')",
            name=op.f("ck_runs_state"),
        ),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name="fk_runs_experiment_id", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(["teacher_run_id"], ["runs.id"], name="fk_runs_teacher_run_id"),
        sa.ForeignKeyConstraint(["worker_id"], ["workers.id"], name="fk_runs_worker_id"),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
    )
    op.create_index("ix_runs_claim", "runs", ["state", sa.text("priority DESC"), "id"], unique=False)
    op.create_index("ix_runs_experiment_id", "runs", ["experiment_id"], unique=False)
    op.create_index("ix_runs_teacher_run_id", "runs", ["teacher_run_id"], unique=False)
    op.create_index("ix_runs_worker_id", "runs", ["worker_id"], unique=False)
    op.create_index(
        "uq_runs_live_teacher",
        "runs",
        ["fingerprint"],
        unique=True,
        sqlite_where=sa.text("role = 'teacher' AND state NOT IN ('failed','cancelled')"),
        postgresql_where=sa.text("role = 'teacher' AND state NOT IN ('failed','cancelled')"),
    )
    op.create_table(
        "attempts",
        sa.Column("run_id", sa.String(length=16), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("worker_id", sa.String(length=64), nullable=False),
        sa.Column("worker_name", sa.String(length=120), nullable=False),
        sa.Column("host", sa.String(length=200), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime(), nullable=True),
        sa.Column("outcome", sa.String(length=12), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("accepted_seq", BigInt, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_attempts_run_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["worker_id"], ["workers.id"], name="fk_attempts_worker_id"),
        sa.PrimaryKeyConstraint("run_id", "number", name="pk_attempts"),
    )
    op.create_table(
        "experiment_runs",
        sa.Column("experiment_id", sa.String(length=16), nullable=False),
        sa.Column("run_id", sa.String(length=16), nullable=False),
        sa.Column("label", sa.String(length=60), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name="fk_experiment_runs_experiment_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_experiment_runs_run_id"),
        sa.PrimaryKeyConstraint("experiment_id", "run_id", name="pk_experiment_runs"),
    )
    op.create_index("ix_experiment_runs_run_id", "experiment_runs", ["run_id"], unique=False)
    op.create_table(
        "log_lines",
        sa.Column("run_id", sa.String(length=16), nullable=False),
        sa.Column("number", BigInt, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("time", UtcDateTime(), nullable=False),
        sa.Column("level", sa.String(length=8), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_log_lines_run_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "number", name="pk_log_lines"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "metric_latest",
        sa.Column("run_id", sa.String(length=16), nullable=False),
        sa.Column("name_id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("step", BigInt, nullable=False),
        sa.Column("epoch", sa.Double(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.ForeignKeyConstraint(["name_id"], ["metric_names.id"], name="fk_metric_latest_name_id"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_metric_latest_run_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "name_id", name="pk_metric_latest"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "metric_points",
        sa.Column("run_id", sa.String(length=16), nullable=False),
        sa.Column("name_id", sa.Integer(), nullable=False),
        sa.Column("step", BigInt, nullable=False),
        sa.Column("epoch", sa.Double(), nullable=False),
        sa.Column("elapsed", sa.Double(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("ingest", BigInt, nullable=False),
        sa.ForeignKeyConstraint(["name_id"], ["metric_names.id"], name="fk_metric_points_name_id"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_metric_points_run_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint(
            "run_id",
            "name_id",
            "step",
            name="pk_metric_points",
            postgresql_include=["epoch", "elapsed", "value", "kind", "ingest"],
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_metric_points_ingest", "metric_points", ["run_id", "ingest"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_metric_points_ingest", table_name="metric_points")
    op.drop_table("metric_points")
    op.drop_table("metric_latest")
    op.drop_table("log_lines")
    op.drop_index("ix_experiment_runs_run_id", table_name="experiment_runs")
    op.drop_table("experiment_runs")
    op.drop_table("attempts")
    op.drop_index(
        "uq_runs_live_teacher",
        table_name="runs",
        sqlite_where=sa.text("role = 'teacher' AND state NOT IN ('failed','cancelled')"),
        postgresql_where=sa.text("role = 'teacher' AND state NOT IN ('failed','cancelled')"),
    )
    op.drop_index("ix_runs_worker_id", table_name="runs")
    op.drop_index("ix_runs_teacher_run_id", table_name="runs")
    op.drop_index("ix_runs_experiment_id", table_name="runs")
    op.drop_index("ix_runs_claim", table_name="runs")
    op.drop_table("runs")
    op.drop_index("ix_idempotency_keys_created_at", table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.drop_table("workers")
    op.drop_table("tokens")
    op.drop_table("metric_names")
    op.drop_table("experiments")
