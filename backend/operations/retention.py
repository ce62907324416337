"""Garbage collection: files and rows that nothing has referred to for a while."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import ColumnElement, Delete, and_, delete, func, or_, select, update
from sqlalchemy.orm import Session

from backend.artifacts import uploads
from backend.artifacts.run_files import Store, StoredItem
from backend.db import Database, now
from backend.db.models import (
    Attempt,
    AuditEntry,
    IdempotencyKey,
    Invitation,
    LogLine,
    Run,
    SlotUsage,
    Token,
    Upload,
    UsedIdToken,
)
from backend.queue.claim import attempt_folder
from backend.queue.usage import WINDOW
from core.protocol.public import TERMINAL

_log = structlog.get_logger(__name__)

_ATTEMPT = re.compile(r"([0-9a-z]{1,32})/attempt-([0-9]{1,9})")


class RetentionError(Exception):
    """Garbage collection is refused; the text gives the reason."""


@dataclass(frozen=True)
class RetentionPolicy:
    """Times for which items are kept after they are no longer needed.

    Attributes:
        attempt_days: Days to keep files of an attempt that failed, was cancelled or interrupted, after its end.
        orphan_hours: Hours to keep files without a row in the database after they were last written. A file that is
            being written has no row yet.
        log_days: Days to keep log lines after the end of their run.
        token_days: Days to keep tokens, of which sessions are some, after they expired or were revoked.
        idempotency_hours: Hours to keep idempotency keys; see ``Settings.idempotency_hours``.
        audit_days: Days to keep entries of the audit log; see ``Settings.audit_days``.
    """

    attempt_days: float = 30.0
    orphan_hours: float = 24.0
    log_days: float = 180.0
    token_days: float = 90.0
    idempotency_hours: float = 24.0
    audit_days: float = 400.0


@dataclass(frozen=True)
class RemovableItem:
    """An item of the artifact store that may be removed, with the reason."""

    item: StoredItem
    reason: str


@dataclass
class RemovalPlan:
    """Items and rows that may be removed.

    Attributes:
        files: Items of the artifact store.
        rows: Number of rows by kind.
    """

    files: list[RemovableItem] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(file.item.size for file in self.files)


def plan_removal(database: Database, store: Store, policy: RetentionPolicy) -> RemovalPlan:
    """Find the items and rows that may be removed; nothing is changed.

    Raises:
        RetentionError: The database has no runs but the store has files of runs, so one of the two settings is probably
            wrong.
    """
    items = list(store.items())  # before the database is read, so that rows written meanwhile are seen
    with database.read() as session:
        plan = RemovalPlan(files=list(_removable(session, items, policy)))
        for name, condition in _rows(now(session), policy).items():
            table, where = condition
            count = session.scalars(select(func.count()).select_from(table).where(where)).one()
            if count:
                plan.rows[name] = count
    return plan


def apply(database: Database, store: Store, plan: RemovalPlan, policy: RetentionPolicy) -> list[str]:
    """Remove the items and rows of a plan.

    Returns:
        One sentence per item that could not be removed; all other items have been removed.
    """
    problems = []
    removed: list[tuple[str, int]] = []
    for file in plan.files:
        try:
            if file.item.kind == "upload":  # it may have been uploaded again meanwhile
                uploads.remove_file(database, store, _sha256(file.item), partial(store.remove, file.item))
            else:
                store.remove(file.item)
                if match := _ATTEMPT.fullmatch(file.item.name):
                    removed.append((match[1], int(match[2])))
        except OSError as error:
            problems.append(f"{file.item.name} cannot be removed: {error}")
    if removed:
        with database.write() as session:
            for run_id, number in removed:
                attempt = (Attempt.run_id == run_id) & (Attempt.number == number)
                session.execute(update(Attempt).where(attempt).values(stored_bytes=0))
    for table, where in _rows_of(database, policy):
        statement: Delete = delete(table).where(where).execution_options(synchronize_session=False)
        with database.write() as session:  # one transaction each, so that other writers do not wait for long
            session.execute(statement)
    _log.info("garbage collected", files=len(plan.files) - len(problems), rows=plan.rows, problems=len(problems))
    return problems


def _removable(session: Session, items: list[StoredItem], policy: RetentionPolicy) -> Iterator[RemovableItem]:
    runs = {
        row.id: row
        for row in session.execute(select(Run.id, Run.state, Run.attempt, Run.weights_path, Run.checkpoint_path))
    }
    if not runs and any(item.kind == "attempt" for item in items):
        raise RetentionError(
            "the database has no runs, but the store has files of runs; check DKD_DATABASE_URL and DKD_ARTIFACTS"
        )
    attempts = {
        (row.run_id, row.number): row
        for row in session.execute(select(Attempt.run_id, Attempt.number, Attempt.ended_at, Attempt.outcome))
    }
    uploaded = set(session.scalars(select(Upload.sha256)))
    attempt_limit = now(session) - timedelta(days=policy.attempt_days)
    orphan_limit = time.time() - 3600 * policy.orphan_hours
    for item in items:
        old = item.modified < orphan_limit
        if item.kind == "upload":
            if old and _sha256(item) not in uploaded:
                yield RemovableItem(item, "an upload without a row in the database")
            continue
        match = _ATTEMPT.fullmatch(item.name) if item.kind == "attempt" else None
        if match is None:
            if old:
                yield RemovableItem(item, "neither a run nor an upload")
            continue
        key = match[1], int(match[2])
        run, attempt = runs.get(match[1]), attempts.get(key)
        if run is None or attempt is None:
            if old:
                yield RemovableItem(item, "of a deleted run" if run is None else "of an unknown attempt")
            continue
        current = run.state not in TERMINAL and run.attempt == key[1]
        # A succeeded run is never resumed; a retry may resume any other run.
        needed_path = run.weights_path if run.state == "succeeded" else run.checkpoint_path
        if current or attempt.ended_at is None or attempt.outcome == "succeeded":
            continue
        if attempt.ended_at < attempt_limit and not needed_path.startswith(attempt_folder(*key) + "/"):
            yield RemovableItem(item, f"of an attempt that was {attempt.outcome or 'lost'}")


def _sha256(upload: StoredItem) -> str:
    return upload.name.rpartition("/")[2].removesuffix(".safetensors")


def _rows(time_now: datetime, policy: RetentionPolicy) -> dict[str, tuple[type, ColumnElement[bool]]]:
    """Return, by kind, the table and the condition of the rows that may be removed."""
    token_limit = time_now - timedelta(days=policy.token_days)
    log_limit = time_now - timedelta(days=policy.log_days)
    key_limit = time_now - timedelta(hours=policy.idempotency_hours)
    ended = select(Run.id).where(Run.state.in_(TERMINAL), Run.ended_at < log_limit)
    expired = and_(Token.expires_at.is_not(None), Token.expires_at < token_limit)
    return {
        "log lines": (LogLine, LogLine.run_id.in_(ended)),
        "idempotency keys": (IdempotencyKey, IdempotencyKey.created_at < key_limit),
        "audit log entries": (AuditEntry, AuditEntry.at < time_now - timedelta(days=policy.audit_days)),
        "tokens": (Token, or_(expired, Token.revoked_at < token_limit)),
        "invitations": (Invitation, Invitation.ends_at < time_now),
        "used times": (SlotUsage, SlotUsage.ended_at < time_now - WINDOW),
        "used ID tokens": (UsedIdToken, UsedIdToken.ends_at < time_now),
    }


def _rows_of(database: Database, policy: RetentionPolicy) -> list[tuple[type, ColumnElement[bool]]]:
    with database.read() as session:
        return list(_rows(now(session), policy).values())
