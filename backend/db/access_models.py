"""The tables of who may do what, and of who did what: tokens, people, sign-in, projects and the audit log."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import DDL, CheckConstraint, ForeignKey, Index, String, UniqueConstraint, event
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.base import ID, Base
from backend.db.types import BigInt


class Token(Base):
    """A bearer token, of which only the hash is stored."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]]
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(100), default="", server_default="")
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    rotated_at: Mapped[datetime | None] = mapped_column(doc="Time at which it got its present text.")
    earlier_text_ends_at: Mapped[datetime | None] = mapped_column(doc="Time at which its last earlier text ends.")
    last_used_at: Mapped[datetime | None] = mapped_column(
        doc="Last use, up to a few minutes (backend.access.last_use)."
    )
    # No foreign key: SQLite cannot add one in place as the models define it. People are disabled, and never deleted.
    person_id: Mapped[str | None] = mapped_column(
        ID, index=True, doc="The person who uses it; NULL for a service, which has its scopes over all projects."
    )
    session: Mapped[str | None] = mapped_column(
        String(12), doc="How its person signed in, if the token is a session: password, invitation or oidc."
    )
    idle_ends_at: Mapped[datetime | None] = mapped_column(
        doc="Time at which a session ends if it is not used (backend.access.last_use)."
    )
    client: Mapped[str] = mapped_column(
        String(100), default="", server_default="", doc="What a session was begun with, such as dashboard."
    )
    address: Mapped[str] = mapped_column(
        String(64), default="", server_default="", doc="Network address at which a session was begun."
    )


class EarlierTokenText(Base):
    """A text that a token had before a rotation, and that is valid for some time beside the present one."""

    __tablename__ = "earlier_token_texts"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    token_id: Mapped[str] = mapped_column(ForeignKey("tokens.id", ondelete="CASCADE"), index=True)
    ends_at: Mapped[datetime]


class Project(Base):
    """A project. Experiments, uploads and layouts name theirs; the name never changes."""

    __tablename__ = "projects"

    name: Mapped[str] = mapped_column(String(60), primary_key=True)
    title: Mapped[str] = mapped_column(String(200), default="")
    created_at: Mapped[datetime]
    archived_at: Mapped[datetime | None]
    slots_limit: Mapped[int | None] = mapped_column(doc="Most slots at once; NULL, as in the other limits: no limit.")
    gpu_hours_limit: Mapped[float | None] = mapped_column(doc="Most GPU-hours in the last seven days.")
    disk_limit: Mapped[int | None] = mapped_column(BigInt, doc="Most bytes of stored files.")


class Person(Base):
    """A person of the lab."""

    __tablename__ = "people"

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    name: Mapped[str] = mapped_column(String(60), unique=True)
    mail: Mapped[str | None] = mapped_column(String(200))
    admin: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None] = mapped_column(doc="Since when all tokens of the person are refused.")
    password_hash: Mapped[str | None] = mapped_column(
        String(255), doc="Argon2id in the PHC form (backend.sign_in.passwords); NULL for a person without a password."
    )
    password_changed_at: Mapped[datetime | None]


class Invitation(Base):
    """A code with which a person sets a password, once. Only its hash is stored; a person has at most one."""

    __tablename__ = "invitations"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    person_id: Mapped[str] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), unique=True)
    created_at: Mapped[datetime]
    ends_at: Mapped[datetime] = mapped_column(index=True)


class PersonIdentity(Base):
    """An account at an identity provider with which a person signs in; at most one of each provider."""

    __tablename__ = "person_identities"
    __table_args__ = (UniqueConstraint("person_id", "issuer"), {"sqlite_with_rowid": False})

    issuer: Mapped[str] = mapped_column(String(255), primary_key=True)
    subject: Mapped[str] = mapped_column(String(255), primary_key=True)
    person_id: Mapped[str] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"))
    created_at: Mapped[datetime]


class UsedIdToken(Base):
    """An ID token that began a session, so that it cannot begin another one. Removed after the token's end."""

    __tablename__ = "used_id_tokens"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    ends_at: Mapped[datetime] = mapped_column(index=True)


class Membership(Base):
    """The role of a person in a project."""

    __tablename__ = "memberships"
    __table_args__ = (
        CheckConstraint("role IN ('reader','submitter','admin')", name="role"),
        {"sqlite_with_rowid": False},
    )

    person_id: Mapped[str] = mapped_column(ForeignKey("people.id", ondelete="CASCADE"), primary_key=True)
    project: Mapped[str] = mapped_column(
        String(60), ForeignKey("projects.name", ondelete="CASCADE"), primary_key=True, index=True
    )
    role: Mapped[str] = mapped_column(String(12))


class AuditEntry(Base):
    """A change that somebody requested, or a refused attempt. Rows are only added, and removed after their retention.

    A trigger refuses updates. There are no foreign keys: an entry outlives what it is about.
    """

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("ix_audit_log_object_id", "object", "id"),
        Index("ix_audit_log_person_id", "person", "id"),
        Index("ix_audit_log_at", "at"),
        {"sqlite_autoincrement": True},  # the number of a removed row is not used again
    )

    id: Mapped[int] = mapped_column(BigInt, primary_key=True, autoincrement=True)
    at: Mapped[datetime]
    action: Mapped[str] = mapped_column(String(60))
    status: Mapped[int]
    token_id: Mapped[str] = mapped_column(String(16), default="")
    token: Mapped[str] = mapped_column(String(100), default="", doc="Name of the token at that time.")
    person: Mapped[str] = mapped_column(String(100), default="")
    kind: Mapped[str] = mapped_column(String(20), default="")
    object: Mapped[str] = mapped_column(String(120), default="")
    project: Mapped[str] = mapped_column(String(60), default="")
    address: Mapped[str] = mapped_column(String(64), default="")
    request_id: Mapped[str] = mapped_column(String(16), default="")
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)


_ddl: Any = DDL  # SQLAlchemy does not annotate it
_APPEND_ONLY = (
    _ddl(
        "CREATE OR REPLACE FUNCTION refuse_audit_log_update() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$"
    ).execute_if(dialect="postgresql"),
    _ddl(
        "CREATE TRIGGER audit_log_append_only BEFORE UPDATE ON audit_log "
        "FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_log_update()"
    ).execute_if(dialect="postgresql"),
    _ddl(
        "CREATE TRIGGER audit_log_append_only BEFORE UPDATE ON audit_log "
        "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
    ).execute_if(dialect="sqlite"),
)
for _statement in _APPEND_ONLY:
    event.listen(AuditEntry.__table__, "after_create", _statement)
