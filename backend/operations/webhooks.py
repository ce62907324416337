"""Telling somebody that an experiment has finished, failed or stalled.

What is to be told is found in the database and written there first, so that a restart or another replica neither
forgets a message nor sends it twice for its own part. A receiver may still get one twice (its answer was lost); the
id in the message tells.

Nobody can make the backend call an address of their choice: a spec may only name origins that the settings list, no
redirect is followed, and what is answered is not kept.
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
from sqlalchemy import ColumnElement, Exists, and_, delete, exists, func, select, update
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
"""After the first, second … failed try; then it is given up."""
_TIMEOUT_SECONDS = 10.0
_TAKEN_SECONDS = 60.0  # for which a replica that sends a message has it for itself
_KEPT = timedelta(days=7)
_AT_ONCE = 50
_PERIOD_SECONDS = 5.0


def refuse_webhooks(specs: Sequence[tuple[str, ExperimentSpec]], settings: Settings) -> None:
    """Raises SpecError for a webhook whose origin the settings do not list."""
    allowed = {_origin(entry) for entry in settings.webhook_hosts}
    problems = [
        Problem(f"{prefix}webhook", "this backend tells nobody there; its setting DKD_WEBHOOK_HOSTS lists who may be")
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
    except ValueError:  # brackets that do not close, a port that is none
        return ("", "", None)


def signature(secret: str, moment: int, body: bytes) -> str:
    """What the header DKD-Signature says: ``t=SECONDS,v1=HEX``, HMAC-SHA256 over ``SECONDS.BODY``."""
    digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={moment},v1={digest}"


class Webhooks:
    """Finds what is to be told and sends it. One pass every few seconds; replicas may run it side by side."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._settings = settings

    def run_once(self) -> int:
        """One pass; returns how many messages were delivered."""
        with self._database.read() as session:
            news = _news(session, self._settings)
            waiting = session.scalar(select(func.count()).select_from(WebhookDelivery).where(~WebhookDelivery.done))
        if news:
            with self._database.write() as session:
                for experiment_id, before, after in news:
                    _enter(session, experiment_id, before, after)
        if not news and not waiting:
            return 0
        with self._database.write() as session:
            due = _take_due(session)
        if not due:
            return 0
        outcomes = [(message, self._send(message)) for message in due]
        with self._database.write() as session:
            moment = now(session)
            for message, error in outcomes:
                _record(session, message.id, error, moment)
            session.execute(
                delete(WebhookDelivery).where(WebhookDelivery.done, WebhookDelivery.created_at < moment - _KEPT)
            )
        return sum(not error for _, error in outcomes)

    async def run_until(self, stop: asyncio.Event) -> None:
        """A pass every few seconds. One that fails is logged, and the next is tried."""
        while not stop.is_set():
            try:
                await asyncio.to_thread(self.run_once)
            except SQLAlchemyError as error:
                _log.error("webhooks cannot use the database", error=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _PERIOD_SECONDS)

    def _send(self, message: WebhookDelivery) -> str:
        """Why it could not be delivered; empty where it was."""
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


def _news(session: Session, settings: Settings) -> list[tuple[str, str, str]]:
    """Experiments whose state is another than was told: id, what was told, what is to be."""
    moment = now(session)
    silent_since = moment - timedelta(minutes=settings.stalled_minutes)
    live = _some_run(Run.state.not_in(TERMINAL))
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
        # What has ended is looked at again only where something of it lives: a run was retried.
        Experiment.webhook_state.in_(("active", "stalled")) | live,
    )
    found = []
    for key, before, lives, silent, has_failed, has_cancelled in session.execute(query):
        if lives:
            after = "stalled" if silent else "active"
        else:
            after = "failed" if has_failed else "cancelled" if has_cancelled else "finished"
        if after != before:
            found.append((key, before, after))
    return found


def _some_run(condition: ColumnElement[bool]) -> Exists:
    """Whether a run that the experiment uses is so."""
    linked = exists().where(ExperimentRun.experiment_id == Experiment.id, Run.id == ExperimentRun.run_id, condition)
    return linked.correlate(Experiment)


def _enter(session: Session, experiment_id: str, before: str, after: str) -> None:
    """Write down what is to be told, unless another replica has done it by now."""
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
    moment = now(session)
    message_id = new_id()
    session.add(
        WebhookDelivery(
            id=message_id,
            experiment_id=experiment_id,
            event=after,
            url=url,
            body=_body(session, message_id, experiment_id, name, after, moment),
            not_before=moment,
            created_at=moment,
        )
    )


def _body(
    session: Session, message_id: str, experiment_id: str, name: str, event: str, moment: datetime
) -> dict[str, Any]:
    query = (
        select(Run.state, func.count())
        .join(ExperimentRun, ExperimentRun.run_id == Run.id)
        .where(ExperimentRun.experiment_id == experiment_id)
        .group_by(Run.state)
    )
    counts = {row[0]: row[1] for row in session.execute(query)}
    said = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    return {
        "id": message_id,
        "event": event,
        "experiment_id": experiment_id,
        "experiment": name,
        "counts": counts,
        "time": moment.isoformat(),
        "text": f"{name}: {event} ({said})",  # what Slack and its like show
    }


def _take_due(session: Session) -> list[WebhookDelivery]:
    """Messages to send now; for a minute no other replica takes them."""
    moment = now(session)
    query = (
        select(WebhookDelivery)
        .where(~WebhookDelivery.done, WebhookDelivery.not_before <= moment)
        .order_by(WebhookDelivery.id)
        .limit(_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    found = list(session.scalars(query))
    for message in found:
        message.not_before = moment + timedelta(seconds=_TAKEN_SECONDS + _AT_ONCE * _TIMEOUT_SECONDS)
    return found


def _record(session: Session, message_id: str, error: str, moment: datetime) -> None:
    message = session.get(WebhookDelivery, message_id)
    if message is None:  # its experiment was deleted meanwhile
        return
    message.attempts += 1
    message.error = error
    if not error:
        message.done = True
        return
    if message.attempts > len(_BACKOFF_SECONDS):
        message.done = True
        _log.error("webhook given up", experiment=message.experiment_id, webhook_event=message.event, error=error)
        return
    message.not_before = moment + timedelta(seconds=_BACKOFF_SECONDS[message.attempts - 1])
    _log.warning("webhook not delivered", experiment=message.experiment_id, webhook_event=message.event, error=error)
