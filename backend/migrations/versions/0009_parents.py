"""The experiment that an experiment was copied from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("experiments", sa.Column("parent_id", sa.String(length=16), nullable=True))
    op.create_index("ix_experiments_parent_id", "experiments", ["parent_id"])


def downgrade() -> None:
    op.drop_index("ix_experiments_parent_id", table_name="experiments")
    op.drop_column("experiments", "parent_id")
