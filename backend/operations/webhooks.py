"""Webhooks: messages that an experiment has finished, failed or stalled.

Each message is first stored in the database and then sent, so that a restart or another replica neither forgets it nor
sends it again. A receiver may still get a message twice if its answer was lost; the id in the message is then the same.

No user can make the backend call an arbitrary address: a spec may only name origins that the settings list, redirects
are not followed, and answers are not stored.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import structlog
from sqlalchemy import ColumnElement, Exists, and_, delete, exists, func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from backend.db import Database, new_id, now
from backend.db.models import Experiment, ExperimentRun, Run, WebhookDelivery
from backend.settings import Settings
from common.http_clients import HttpSettingsError, open_client
from core.protocol.public import TERMINAL
from core.specs import ExperimentSpec, Problem, SpecError

_log = structlog.get_logger(__name__)

_BACKOFF_SECONDS = (10.0, 60.0, 300.0, 1800.0, 7200.0)
"""Delays after the first, second … failed delivery. After the last delay, the message is abandoned."""
_TIMEOUT_SECONDS = 10.0
_CLAIM_SECONDS = 60.0  # time in which no other replica sends a message that one replica has claimed
_KEEP_DELIVERED = timedelta(days=7)
_BATCH_SIZE = 50
_PERIOD_SECONDS = 5.0


def refuse_webhooks(specs: Sequence[tuple[str, ExperimentSpec]], settings: Settings) -> None:
    """Refuse webhooks whose origin the settings do not list.

    Raises:
        SpecError: A spec has such a webhook. The error has the path of each.
    """
    allowed = {_origin(entry) for entry in settings.webhook_hosts}
    problems = [
        Problem(f"{prefix}webhook", "the setting DKD_WEBHOOK_HOSTS of this backend does not list this origin")
        for prefix, spec in specs
        if spec.webhook is not None and _origin(spec.webhook) not in allowed
    ]
    if problems:
        raise SpecError(problems)


def _origin(url: str) -> tuple[str, str, int | None]:
    try:
        parts = urlsplit(url)
        if parts.username or parts.password:
            return ("", "", None)
        return (parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme))
    except ValueError:  # unclosed brackets, an invalid port
        return ("", "", None)


def signature(secret: str, moment: int, body: bytes) -> str:
    """Return the header ``DKD-Signature``: ``t=SECONDS,v1=HEX``, the HMAC-SHA256 of ``SECONDS.BODY``.

    Args:
        secret: ``DKD_WEBHOOK_SECRET``.
        moment: Seconds since 1970.
        body: Bytes of the request.
    """
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


class Webhooks:
    """Creates messages about state changes and sends them, one pass every few seconds. Several replicas may do so."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    def run_once(self) -> int:
        """Make one pass and return the number of delivered messages."""
        with self._database.read() as session:
            changes = _state_changes(session, self._settings)
            pending = session.scalar(select(func.count()).select_from(WebhookDelivery).where(~WebhookDelivery.done))
        if changes:
            with self._database.write() as session:
                for experiment_id, before, after in changes:
                    _store_message(session, experiment_id, before, after)
        if not changes and not pending:
            return 0
        with self._database.write() as session:
            due = _claim_due(session)
        if not due:
            return 0
        outcomes = [(message, self._send(message)) for message in due]
        with self._database.write() as session:
            time_now = now(session)
            for message, error in outcomes:
                _record_delivery(session, message.id, error, time_now)
            expired = WebhookDelivery.created_at < time_now - _KEEP_DELIVERED
            session.execute(delete(WebhookDelivery).where(WebhookDelivery.done, expired))
        return sum(not error for _, error in outcomes)

    async def run_until(self, stop: asyncio.Event) -> None:
        """Make a pass every few seconds until ``stop`` is set. A failed pass is logged."""
        if not self._settings.send_webhooks:
            return
        while not stop.is_set():
            try:
                await asyncio.to_thread(self.run_once)
            except SQLAlchemyError as error:
                _log.error("webhooks cannot use the database", error=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _PERIOD_SECONDS)

    def _send(self, message: WebhookDelivery) -> str:
        """Send a message; return the reason if it could not be delivered, else an empty text."""
        body = json.dumps(message.body, separators=(",", ":")).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "dkd-lab"}
        secret = self._settings.webhook_secret
        if secret is not None:
            headers["DKD-Signature"] = signature(secret.get_secret_value(), int(time.time()), body)
        try:
            with open_client(message.url, timeout=_TIMEOUT_SECONDS, follow_redirects=False) as client:
                status = client.post(message.url, content=body, headers=headers).status_code
        except HttpSettingsError as error:
            return str(error)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return type(error).__name__
        return "" if 200 <= status < 300 else f"status {status}"


def _state_changes(session: Session, settings: Settings) -> list[tuple[str, str, str]]:
    """Return experiments whose state has changed since the last message: id, previous state, new state."""
    silent_since = now(session) - timedelta(minutes=settings.stalled_minutes)
    live = or_(_some_run(Run.state.not_in(TERMINAL)), Experiment.seeds_open.is_(True))
    query = select(
        Experiment.id,
        Experiment.webhook_state,
        live.label("live"),
        _some_run(and_(Run.state == "running", func.coalesce(Run.reported_at, Run.started_at) < silent_since)).label(
            "stalled"
        ),
        _some_run(Run.state == "failed").label("failed"),
        _some_run(Run.state == "cancelled").label("cancelled"),
    ).where(
        Experiment.webhook.is_not(None),
        # An experiment that has ended is read again only if a retry has made one of its runs live.
        Experiment.webhook_state.in_(("active", "stalled")) | live,
    )
    changes = []
    for key, before, is_live, silent, has_failed, has_cancelled in session.execute(query):
        if is_live:
            after = "stalled" if silent else "active"
        else:
            after = "failed" if has_failed else "cancelled" if has_cancelled else "finished"
        if after != before:
            changes.append((key, before, after))
    return changes


def _some_run(condition: ColumnElement[bool]) -> Exists:
    """Return the SQL condition that the experiment has a run with this condition."""
    linked = exists().where(ExperimentRun.experiment_id == Experiment.id, Run.id == ExperimentRun.run_id, condition)
    return linked.correlate(Experiment)


def _store_message(session: Session, experiment_id: str, before: str, after: str) -> None:
    """Store the message for a state change, unless another replica has stored it meanwhile."""
    changed = session.execute(
        update(Experiment)
        .where(Experiment.id == experiment_id, Experiment.webhook_state == before)
        .values(webhook_state=after)
        .returning(Experiment.name, Experiment.webhook)
        .execution_options(synchronize_session=False)
    ).one_or_none()
    if changed is None or after not in ("finished", "failed", "stalled"):
        return
    name, url = changed
    time_now = now(session)
    message_id = new_id()
    session.add(
        WebhookDelivery(
            id=message_id,
            experiment_id=experiment_id,
            event=after,
            url=url,
            body=_body(session, message_id, experiment_id, name, after, time_now),
            not_before=time_now,
            created_at=time_now,
        )
    )


def _body(
    session: Session, message_id: str, experiment_id: str, name: str, event: str, time_now: datetime
) -> dict[str, Any]:
    """Return the JSON of a message about an experiment."""
    query = (
        select(Run.state, func.count())
        .join(ExperimentRun, ExperimentRun.run_id == Run.id)
        .where(ExperimentRun.experiment_id == experiment_id)
        .group_by(Run.state)
    )
    counts = {row[0]: row[1] for row in session.execute(query)}
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return {
        "id": message_id,
        "event": event,
        "experiment_id": experiment_id,
        "experiment": name,
        "counts": counts,
        "time": time_now.isoformat(),
        "text": f"{name}: {event} ({states})",  # Slack and similar services show this field
    }


def _claim_due(session: Session) -> list[WebhookDelivery]:
    """Claim the messages to send now, so that no other replica sends them meanwhile."""
    time_now = now(session)
    query = (
        select(WebhookDelivery)
        .where(~WebhookDelivery.done, WebhookDelivery.not_before <= time_now)
        .order_by(WebhookDelivery.id)
        .limit(_BATCH_SIZE)
        .with_for_update(skip_locked=True)
    )
    messages = list(session.scalars(query))
    for message in messages:
        message.not_before = time_now + timedelta(seconds=_CLAIM_SECONDS + _BATCH_SIZE * _TIMEOUT_SECONDS)
    return messages


def _record_delivery(session: Session, message_id: str, error: str, time_now: datetime) -> None:
    message = session.get(WebhookDelivery, message_id)
    if message is None:  # the experiment was deleted meanwhile
        return
    message.attempts += 1
    message.error = error
    if not error:
        message.done = True
        return
    if message.attempts > len(_BACKOFF_SECONDS):
        message.done = True
        _log.error("webhook abandoned", experiment=message.experiment_id, webhook_event=message.event, error=error)
        return
    message.not_before = time_now + timedelta(seconds=_BACKOFF_SECONDS[message.attempts - 1])
    _log.warning("webhook not delivered", experiment=message.experiment_id, webhook_event=message.event, error=error)
