"""Whether seeds may still be added to an experiment."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("experiments", sa.Column("seeds_open", sa.Boolean(), nullable=True))
    op.create_index(
        "ix_experiments_open",
        "experiments",
        ["id"],
        sqlite_where=sa.text("seeds_open IS 1"),
        postgresql_where=sa.text("seeds_open IS true"),
    )


def downgrade() -> None:
    op.drop_index("ix_experiments_open", table_name="experiments")
    op.drop_column("experiments", "seeds_open")
