"""The token with which a worker registered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("token_id", sa.String(length=16), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "token_id")
