"""Checks the broker's messages before Celery processes them.

Anyone who can reach the broker can put any message into the queue. If a message's body is not a list, Celery terminates
the worker, and it receives the same message again after a restart, since the message was never acknowledged. A nudge
contains no data. Therefore a valid nudge is replaced by a newly created one, and any other message is acknowledged,
dropped and logged.

Celery loads this module by the name that ``worker.app`` gives it.
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

_MAX_BYTES = 4_096
_LOGGED_LENGTH = 300
_EMBEDDED = ("callbacks", "errbacks", "chain", "chord")


class Consumer(consumer.Consumer):  # type: ignore[misc]
    """Accepts nudges only; no message can terminate the worker."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A message that cannot be decoded can raise any exception in the transport, after the transport has removed the
        # message from the queue. The worker then reconnects and continues, as it does after a lost connection.
        self.connection_errors = (Exception,)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Message], None]:
        """Return Celery's handler of messages, preceded by the check of each message."""
        handle = super().create_task_handler(*args, **kwargs)

        def on_message(message: Message) -> None:
            try:
                if problem := nudge_problem(message):
                    log.warning("dropped a message that is not a nudge", problem=problem, message=_excerpt(message))
                else:
                    _sanitize(message)
                    handle(message)
                    return
            except Exception:
                log.exception("dropped a message that is not a nudge", message=_excerpt(message))
            # Without an acknowledgement, the message would be delivered again, even after a restart.
            message.ack_log_error(consumer.consumer.logger, self.connection_errors)

        return on_message


def _excerpt(message: Message) -> str:
    return repr(message)[:_LOGGED_LENGTH]


def nudge_problem(message: Message) -> str:
    """Return the reason why a message is not a valid nudge; an empty string if it is valid."""
    headers, body = message.headers, message.body
    if not isinstance(headers, dict) or headers.get("task") != NUDGE_TASK:
        return "its task is not the nudge task"
    if message.content_type != "application/json" or not isinstance(body, str | bytes) or len(body) > _MAX_BYTES:
        return "its body is not short JSON"
    try:
        args, kwargs, embedded = json.loads(body)
        expires = headers.get("expires")
        valid_expiry = expires is None or datetime.fromisoformat(expires).tzinfo is not None
    except (ValueError, TypeError, RecursionError):
        return "its body or its expiry is not a nudge's"
    if args != [] or kwargs != {} or not isinstance(embedded, dict) or any(map(embedded.get, _EMBEDDED)):
        return "it has arguments"
    if not valid_expiry or headers.get("eta") is not None or headers.get("timelimit") not in (None, [None, None]):
        return "it sets its own times"
    return ""


def _sanitize(message: Message) -> None:
    """Replace the whole content of a nudge except its expiry with standard values."""
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
