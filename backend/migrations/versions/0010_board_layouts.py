"""Layouts of Compare's board that are stored by name."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.db.types import Json, UtcDateTime

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "board_layouts",
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("layout", Json, nullable=False),
        sa.Column("saved_at", UtcDateTime(), nullable=False),
        sa.Column("saved_by", sa.String(length=100), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_board_layouts"),
    )


def downgrade() -> None:
    op.drop_table("board_layouts")
