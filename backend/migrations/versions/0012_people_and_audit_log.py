"""The audit log; projects, people and their roles. What existed before is in the default project."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from backend.db.types import BigInt, Json, UtcDateTime

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_OF_PROJECT = ("experiments", "uploads", "board_layouts")
_MESSAGE = "the audit log is append-only"


def upgrade() -> None:
    _create_audit_log()
    op.create_table(
        "projects",
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("archived_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_projects"),
    )
    op.create_table(
        "people",
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("name", sa.String(length=60), nullable=False),
        sa.Column("mail", sa.String(length=200), nullable=True),
        sa.Column("admin", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("disabled_at", UtcDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_people"),
        sa.UniqueConstraint("name", name="uq_people_name"),
    )
    op.create_table(
        "memberships",
        sa.Column("person_id", sa.String(length=16), nullable=False),
        sa.Column("project", sa.String(length=60), nullable=False),
        sa.Column("role", sa.String(length=12), nullable=False),
        sa.CheckConstraint("role IN ('reader','submitter','admin')", name=op.f("ck_memberships_role")),
        sa.ForeignKeyConstraint(["person_id"], ["people.id"], name="fk_memberships_person_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["project"], ["projects.name"], name="fk_memberships_project", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("person_id", "project", name="pk_memberships"),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_memberships_project", "memberships", ["project"])
    # Plain ALTERs: SQLite would copy the table otherwise, and to drop the old one deletes what refers to it.
    for table in _OF_PROJECT:
        op.add_column(table, sa.Column("project", sa.String(length=60), server_default="default", nullable=False))
    op.create_index("ix_experiments_project", "experiments", ["project"])
    op.add_column("tokens", sa.Column("person_id", sa.String(length=16), nullable=True))
    op.create_index("ix_tokens_person_id", "tokens", ["person_id"])


def downgrade() -> None:
    op.drop_index("ix_tokens_person_id", table_name="tokens")
    op.drop_column("tokens", "person_id")
    op.drop_index("ix_experiments_project", table_name="experiments")
    for table in _OF_PROJECT:
        op.drop_column(table, "project")
    for table in ("memberships", "people", "projects"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP TRIGGER audit_log_append_only ON audit_log")
        op.execute("DROP FUNCTION refuse_audit_log_update()")
    op.drop_table("audit_log")


def _create_audit_log() -> None:
    texts = {"token_id": 16, "token": 100, "person": 100, "kind": 20, "object": 120, "project": 60, "address": 64}
    op.create_table(
        "audit_log",
        sa.Column("id", BigInt, autoincrement=True, nullable=False),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("action", sa.String(length=60), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        *(sa.Column(name, sa.String(length=length), nullable=False) for name, length in texts.items()),
        sa.Column("request_id", sa.String(length=16), nullable=False),
        sa.Column("details", Json, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_audit_log_object_id", "audit_log", ["object", "id"])
    op.create_index("ix_audit_log_person_id", "audit_log", ["person", "id"])
    op.create_index("ix_audit_log_at", "audit_log", ["at"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE OR REPLACE FUNCTION refuse_audit_log_update() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{_MESSAGE}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_log_append_only BEFORE UPDATE ON audit_log "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_log_update()"
        )
    else:
        op.execute(
            "CREATE TRIGGER audit_log_append_only BEFORE UPDATE ON audit_log "
            f"BEGIN SELECT RAISE(ABORT, '{_MESSAGE}'); END"
        )
