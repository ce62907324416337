"""Tokens expire and have new scopes; experiments say who submitted them, and are tagged, noted and archived."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.db.types import Json, UtcDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TOKENS = sa.table("tokens", sa.column("id", sa.String), sa.column("scopes", Json))
_EXPERIMENTS = sa.table("experiments", sa.column("id", sa.String), sa.column("spec", Json), sa.column("notes", sa.Text))


def upgrade() -> None:
    # Plain ALTERs: SQLite would copy the table otherwise, and to drop the old one deletes what refers to it.
    op.add_column("tokens", sa.Column("created_by", sa.String(length=100), server_default="", nullable=False))
    op.add_column("tokens", sa.Column("expires_at", UtcDateTime(), nullable=True))
    op.add_column("experiments", sa.Column("submitted_by", sa.String(length=100), server_default="", nullable=False))
    op.add_column("experiments", sa.Column("sweep", sa.String(length=100), server_default="", nullable=False))
    op.add_column("experiments", sa.Column("notes", sa.Text(), server_default="", nullable=False))
    op.add_column("experiments", sa.Column("archived_at", UtcDateTime(), nullable=True))
    tags = op.create_table(
        "experiment_tags",
        sa.Column("experiment_id", sa.String(length=16), nullable=False),
        sa.Column("tag", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name="fk_experiment_tags_experiment_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("experiment_id", "tag", name="pk_experiment_tags"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_experiment_tags_tag", "experiment_tags", ["tag"], unique=False)
    connection = op.get_bind()
    rows = connection.execute(sa.select(_EXPERIMENTS.c.id, _EXPERIMENTS.c.spec)).all()
    found = [{"experiment_id": key, "tag": tag} for key, spec in rows for tag in dict.fromkeys(spec.get("tags", ()))]
    if found:
        connection.execute(sa.insert(tags), found)
    for key, spec in rows:
        if notes := spec.get("notes"):
            connection.execute(sa.update(_EXPERIMENTS).where(_EXPERIMENTS.c.id == key).values(notes=notes))
    # Every token that might write was the admin's of the first start.
    for key, scopes in connection.execute(sa.select(_TOKENS.c.id, _TOKENS.c.scopes)).all():
        if "write" in scopes:
            connection.execute(sa.update(_TOKENS).where(_TOKENS.c.id == key).values(scopes=["admin"]))
    _recreate_keys(sa.Column("made", Json, nullable=False))


def downgrade() -> None:
    connection = op.get_bind()
    for key, scopes in connection.execute(sa.select(_TOKENS.c.id, _TOKENS.c.scopes)).all():
        if "admin" in scopes:
            connection.execute(sa.update(_TOKENS).where(_TOKENS.c.id == key).values(scopes=["read", "write"]))
    _recreate_keys(
        sa.Column("experiment_id", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name="fk_idempotency_keys_experiment_id", ondelete="CASCADE"
        ),
    )
    op.drop_index("ix_experiment_tags_tag", table_name="experiment_tags")
    op.drop_table("experiment_tags")
    for name in ("archived_at", "notes", "sweep", "submitted_by"):
        op.drop_column("experiments", name)
    for name in ("expires_at", "created_by"):
        op.drop_column("tokens", name)


def _recreate_keys(*made: sa.schema.SchemaItem) -> None:
    """Keys are kept for a day; a request that is repeated across the upgrade is carried out again."""
    op.drop_index("ix_idempotency_keys_created_at", table_name="idempotency_keys")
    op.drop_table("idempotency_keys")
    op.create_table(
        "idempotency_keys",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("token_id", sa.String(length=16), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("body_sha256", sa.String(length=64), nullable=False),
        *made,
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["token_id"], ["tokens.id"], name="fk_idempotency_keys_token_id", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_idempotency_keys"),
        sa.UniqueConstraint("token_id", "key", name="uq_idempotency_keys_token_id_key"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False)
