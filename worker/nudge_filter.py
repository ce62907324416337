"""What the broker delivers, looked at before Celery believes it.

Everybody who reaches the broker can put anything into the queue. Celery gives a worker up over a body that is no list,
and finds the same message again when it is restarted, since it was never acknowledged. A nudge carries no work: one of
ours is passed on as if it had just been made here; anything else is acknowledged and dropped, with a line in the log.

Loaded by Celery, by its name in ``worker.app``.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any

import structlog
from celery.worker import consumer
from kombu.message import Message

from common.celery_config import NUDGE_TASK

log = structlog.get_logger()

_MOST_BYTES = 4_096
_SHOWN = 300
_EMBEDDED = ("callbacks", "errbacks", "chain", "chord")


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """Takes nudges, and nothing that a message says can end the worker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A message that cannot even be read as one raises whatever its reading raises, deep in the transport, which has
        # taken it from the queue by then. As after a lost connection, the worker connects again and goes on.
        self.connection_errors = (Exception,)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Message], None]:
        handle = super().create_task_handler(*args, **kwargs)

        def take(message: Message) -> None:
            try:
                if problem := problem_of(message):
                    log.warning("a message that is no nudge was dropped", problem=problem, message=_shown(message))
                else:
                    _make_ours(message)
                    handle(message)
                    return
            except Exception:
                log.exception("a message that is no nudge was dropped", message=_shown(message))
            # Or it would come again, also after a restart.
            message.ack_log_error(consumer.consumer.logger, self.connection_errors)

        return take


def _shown(message: Message) -> str:
    return repr(message)[:_SHOWN]


def problem_of(message: Message) -> str:
    """Why a message is no nudge; empty where it is one."""
    headers, body = message.headers, message.body
    if not isinstance(headers, dict) or headers.get("task") != NUDGE_TASK:
        return "it does not name our task"
    if message.content_type != "application/json" or not isinstance(body, str | bytes) or len(body) > _MOST_BYTES:
        return "its body is no short JSON"
    try:
        args, kwargs, embedded = json.loads(body)
        expires = headers.get("expires")
        known = expires is None or datetime.fromisoformat(expires).tzinfo is not None
    except (ValueError, TypeError, RecursionError):
        return "its body or its expiry is no nudge's"
    if args != [] or kwargs != {} or not isinstance(embedded, dict) or any(map(embedded.get, _EMBEDDED)):
        return "it carries arguments"
    if not known or headers.get("eta") is not None or headers.get("timelimit") not in (None, [None, None]):
        return "it asks for times of its own"
    return ""


def _make_ours(message: Message) -> None:
    """Have a nudge say what ours do, whoever has sent it; only until when it is worth taking is its own."""
    identity = str(uuid.uuid4())
    message.headers = {
        "lang": "py",
        "task": NUDGE_TASK,
        "id": identity,
        "root_id": identity,
        "parent_id": None,
        "group": None,
        "retries": 0,
        "eta": None,
        "expires": message.headers.get("expires"),
        "timelimit": [None, None],
        "argsrepr": "()",
        "kwargsrepr": "{}",
        "origin": "",
    }
    message.body = json.dumps([[], {}, dict.fromkeys(_EMBEDDED)])
    message.content_encoding = "utf-8"
    message.properties = {
        "correlation_id": identity,
        "delivery_info": message.delivery_info if isinstance(message.delivery_info, dict) else {},
    }
