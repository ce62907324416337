"""Teachers of a run besides its first one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "further_teachers",
        sa.Column("run_id", sa.String(length=16), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("teacher_run_id", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_further_teachers_run_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["teacher_run_id"], ["runs.id"], name="fk_further_teachers_teacher_run_id"),
        sa.PrimaryKeyConstraint("run_id", "position", name="pk_further_teachers"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_further_teachers_teacher_run_id", "further_teachers", ["teacher_run_id"])


def downgrade() -> None:
    op.drop_table("further_teachers")
