"""What may go: files and rows that nothing refers to any more, and that have been so for a while."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import ColumnElement, Delete, and_, delete, func, or_, select
from sqlalchemy.orm import Session

from backend.artifacts import uploads
from backend.artifacts.run_files import Kept, Store
from backend.db import Database, now
from backend.db.models import Attempt, IdempotencyKey, LogLine, Run, Token, Upload
from backend.queue.claim import folder_of
from core.protocol.public import TERMINAL

_log = structlog.get_logger(__name__)

_ATTEMPT = re.compile(r"([0-9a-z]{1,32})/attempt-([0-9]{1,9})")


class RetentionError(Exception):
    """Why nothing is looked for, in a sentence."""


@dataclass(frozen=True)
class Terms:
    """How long what may go is kept.

    Attributes:
        attempt_days: files of an attempt that failed, was cancelled or interrupted, since its end.
        orphan_hours: files that nothing refers to, since they were last written. What is just being written is not
            entered yet.
        log_days: lines of runs that have ended.
        token_days: tokens, since they expired or were revoked.
        idempotency_hours: as ``Settings.idempotency_hours``.
    """

    attempt_days: float = 30.0
    orphan_hours: float = 24.0
    log_days: float = 180.0
    token_days: float = 90.0
    idempotency_hours: float = 24.0


@dataclass(frozen=True)
class File:
    """Files that may go, and why."""

    kept: Kept
    reason: str


@dataclass
class Plan:
    """What may go.

    Attributes:
        files: in the artifact store.
        rows: how many, by what they are.
    """

    files: list[File] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(file.kept.size for file in self.files)


def plan(database: Database, store: Store, terms: Terms) -> Plan:
    """Look for what may go; nothing is changed.

    Raises RetentionError where the database knows no run and the store has files: one of the two is not what was meant.
    """
    kept = list(store.kept())  # before the database is read: what is entered meanwhile is then known
    with database.read() as session:
        found = Plan(files=list(_files(session, kept, terms)))
        for name, condition in _rows(now(session), terms).items():
            table, where = condition
            count = session.scalars(select(func.count()).select_from(table).where(where)).one()
            if count:
                found.rows[name] = count
    return found


def apply(database: Database, store: Store, found: Plan, terms: Terms) -> list[str]:
    """Remove what was planned. Returns what could not be removed, a sentence each; the rest is gone."""
    problems = []
    for file in found.files:
        try:
            if file.kept.kind == "upload":  # it may have been sent again since
                uploads.remove_file(database, store, _sha256(file.kept), partial(store.remove, file.kept))
            else:
                store.remove(file.kept)
        except OSError as error:
            problems.append(f"{file.kept.name} cannot be removed: {error}")
    for table, where in _rows_of(database, terms):
        statement: Delete = delete(table).where(where).execution_options(synchronize_session=False)
        with database.write() as session:  # one transaction each: nobody waits for long
            session.execute(statement)
    _log.info("tidied", files=len(found.files) - len(problems), rows=found.rows, problems=len(problems))
    return problems


def _files(session: Session, kept: list[Kept], terms: Terms) -> Iterator[File]:
    runs = {
        row.id: row
        for row in session.execute(select(Run.id, Run.state, Run.attempt, Run.weights_path, Run.checkpoint_path))
    }
    if not runs and any(item.kind == "attempt" for item in kept):
        raise RetentionError(
            "the database knows no run, and the store has files of runs: look at DKD_DATABASE_URL and DKD_ARTIFACTS"
        )
    ended = {
        (row.run_id, row.number): row
        for row in session.execute(select(Attempt.run_id, Attempt.number, Attempt.ended_at, Attempt.outcome))
    }
    entered = set(session.scalars(select(Upload.sha256)))
    late = now(session) - timedelta(days=terms.attempt_days)
    orphaned = time.time() - 3600 * terms.orphan_hours
    for item in kept:
        old = item.modified < orphaned
        if item.kind == "upload":
            if old and _sha256(item) not in entered:
                yield File(item, "an upload that is not entered")
            continue
        match = _ATTEMPT.fullmatch(item.name) if item.kind == "attempt" else None
        if match is None:
            if old:
                yield File(item, "left behind")
            continue
        key = match[1], int(match[2])
        run, attempt = runs.get(match[1]), ended.get(key)
        if run is None or attempt is None:
            if old:
                yield File(item, "of a run that is deleted" if run is None else "of an attempt that nobody knows")
            continue
        current = run.state not in TERMINAL and run.attempt == key[1]
        # A run that has succeeded is not resumed; any other may be, by a retry.
        needed = run.weights_path if run.state == "succeeded" else run.checkpoint_path
        if current or attempt.ended_at is None or attempt.outcome == "succeeded":
            continue
        if attempt.ended_at < late and not needed.startswith(folder_of(*key) + "/"):
            yield File(item, f"of an attempt that was {attempt.outcome or 'lost'}")


def _sha256(upload: Kept) -> str:
    return upload.name.rpartition("/")[2].removesuffix(".safetensors")


def _rows(moment: datetime, terms: Terms) -> dict[str, tuple[type, ColumnElement[bool]]]:
    over = moment - timedelta(days=terms.token_days)
    ended = select(Run.id).where(Run.state.in_(TERMINAL), Run.ended_at < moment - timedelta(days=terms.log_days))
    return {
        "log lines": (LogLine, LogLine.run_id.in_(ended)),
        "idempotency keys": (
            IdempotencyKey,
            IdempotencyKey.created_at < moment - timedelta(hours=terms.idempotency_hours),
        ),
        "tokens": (
            Token,
            or_(and_(Token.expires_at.is_not(None), Token.expires_at < over), Token.revoked_at < over),
        ),
    }


def _rows_of(database: Database, terms: Terms) -> list[tuple[type, ColumnElement[bool]]]:
    with database.read() as session:
        return list(_rows(now(session), terms).values())
