"""The record of a change while its request is answered, and the row that it becomes.

The route's checks begin the record (``backend.api.boundary``). The code that makes the change adds what it changed,
with ``about`` and ``note``. The first writing transaction of the request then stores the row before it commits, so that
there is neither a change without its row nor a row of a change that was rolled back.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, insert

from backend.db import finishing, models, now

MAX_OBJECT = 120
"""Characters of an object's id or name."""
_MAX_TEXT = 200
_MAX_ITEMS = 20

_current: ContextVar[Change | None] = ContextVar("audited_change", default=None)


@dataclass
class Change:
    """A change that a request makes, or an attempt that is refused.

    Attributes:
        action: The subject and the name of the route, such as ``experiments.cancel``.
        kind: Kind of the object.
        object: Its id, or its name if its kind has no ids.
        token_id: Id of the request's token; empty without a valid one.
        token: Name of that token.
        person: Name of the token's person; empty without one.
        project: Project of the object; empty if it has none.
        address: Network address of the sender.
        request_id: Id of the request.
        details: Further facts; long texts and lists are cut.
        written: Whether a transaction has stored the row.
    """

    action: str
    kind: str = ""
    object: str = ""
    token_id: str = ""
    token: str = ""
    person: str = ""
    project: str = ""
    address: str = ""
    request_id: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    written: bool = False

    def write(self, connection: Connection) -> None:
        """Store the row of a successful change, once."""
        if not self.written:
            self.insert(connection, 200)
            self.written = True

    def insert(self, connection: Connection, status: int) -> None:
        """Insert a row with this status."""
        connection.execute(insert(models.AuditEntry).values(**self._row(status), at=now(connection)))

    def _row(self, status: int) -> dict[str, Any]:
        return {
            "action": self.action,
            "status": status,
            "token_id": self.token_id,
            "token": self.token,
            "person": self.person,
            "kind": self.kind,
            "object": self.object[:MAX_OBJECT],
            "project": self.project,
            "address": self.address[:64],
            "request_id": self.request_id,
            "details": {key: _short(value) for key, value in self.details.items()},
        }


def begin(change: Change | None) -> None:
    """Make ``change`` the change of the present request; None for a request that changes nothing."""
    _current.set(change)
    finishing.set(None)


def store_with_next_transaction() -> None:
    """Let the next writing transaction of the present request store the row: the request has passed its checks."""
    change = _current.get()
    finishing.set(None if change is None else change.write)


def current() -> Change | None:
    """Return the change of the present request; None if it changes nothing."""
    return _current.get()


def about(kind: str, key: str, *, project: str = "", **details: Any) -> None:
    """State which object the present request changes; no effect outside of such a request.

    Args:
        kind: Kind of the object.
        key: Its id, or its name if its kind has no ids.
        project: Its project.
        details: Further facts.
    """
    change = _current.get()
    if change is not None:
        change.kind, change.object, change.project = kind, key, project or change.project
        change.details |= details


def note(**details: Any) -> None:
    """Add facts to the present request's change; no effect outside of such a request."""
    change = _current.get()
    if change is not None:
        change.details |= details


def _short(value: Any) -> Any:
    """Return plain data with long texts and lists cut, so that a row stays small."""
    if isinstance(value, str):
        return value if len(value) <= _MAX_TEXT else value[:_MAX_TEXT] + "…"
    if isinstance(value, list | tuple):
        short = [_short(item) for item in value[:_MAX_ITEMS]]
        return short if len(value) <= _MAX_ITEMS else [*short, f"and {len(value) - _MAX_ITEMS} more"]
    return value if isinstance(value, int | float | bool) or value is None else str(value)[:_MAX_TEXT]
