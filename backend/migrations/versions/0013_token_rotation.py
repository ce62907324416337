"""Earlier texts of rotated tokens, and the last use of each token."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.db.types import UtcDateTime

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_COLUMNS = ("rotated_at", "earlier_text_ends_at", "last_used_at")


def upgrade() -> None:
    for name in _COLUMNS:
        op.add_column("tokens", sa.Column(name, UtcDateTime(), nullable=True))
    op.create_table(
        "earlier_token_texts",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("token_id", sa.String(length=16), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["token_id"], ["tokens.id"], name="fk_earlier_token_texts_token_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("sha256", name="pk_earlier_token_texts"),
    )
    op.create_index("ix_earlier_token_texts_token_id", "earlier_token_texts", ["token_id"])


def downgrade() -> None:
    op.drop_index("ix_earlier_token_texts_token_id", table_name="earlier_token_texts")
    op.drop_table("earlier_token_texts")
    for name in reversed(_COLUMNS):
        op.drop_column("tokens", name)
