"""Settings that were chosen on held-out images, and the runs that they were chosen from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    json = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
    op.add_column("experiments", sa.Column("choice", json, nullable=True))
    op.add_column("experiment_runs", sa.Column("trial", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    op.drop_column("experiment_runs", "trial")
    op.drop_column("experiments", "choice")
