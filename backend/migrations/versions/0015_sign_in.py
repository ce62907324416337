"""Passwords, invitations, sessions, and accounts at an identity provider."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.db.types import UtcDateTime

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tokens", sa.Column("session", sa.String(length=12), nullable=True))
    op.add_column("tokens", sa.Column("idle_ends_at", UtcDateTime(), nullable=True))
    op.add_column("tokens", sa.Column("client", sa.String(length=100), server_default="", nullable=False))
    op.add_column("tokens", sa.Column("address", sa.String(length=64), server_default="", nullable=False))
    op.add_column("people", sa.Column("password_hash", sa.String(length=255), nullable=True))
    op.add_column("people", sa.Column("password_changed_at", UtcDateTime(), nullable=True))
    op.create_table(
        "invitations",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("person_id", sa.String(length=16), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["person_id"], ["people.id"], name="fk_invitations_person_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("sha256", name="pk_invitations"),
        sa.UniqueConstraint("person_id", name="uq_invitations_person_id"),
    )
    op.create_index("ix_invitations_ends_at", "invitations", ["ends_at"])
    op.create_table(
        "person_identities",
        sa.Column("issuer", sa.String(length=255), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("person_id", sa.String(length=16), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["person_id"], ["people.id"], name="fk_person_identities_person_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("issuer", "subject", name="pk_person_identities"),
        sa.UniqueConstraint("person_id", "issuer", name="uq_person_identities_person_id_issuer"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "used_id_tokens",
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("ends_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name="pk_used_id_tokens"),
    )
    op.create_index("ix_used_id_tokens_ends_at", "used_id_tokens", ["ends_at"])


def downgrade() -> None:
    op.drop_table("used_id_tokens")
    op.drop_table("person_identities")
    op.drop_table("invitations")
    op.drop_column("people", "password_changed_at")
    op.drop_column("people", "password_hash")
    # A version without sessions would show them as tokens without an idle end.
    op.execute("DELETE FROM tokens WHERE session IS NOT NULL")
    for name in ("address", "client", "idle_ends_at", "session"):
        op.drop_column("tokens", name)
