"""``client.audit`` reads the audit log, for admins."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal

from client.connection import API
from client.resources.base import Resource, items_of_pages
from core.protocol.audit import AuditEntry, AuditPage

_PATH = f"{API}/audit"


class Audit(Resource):
    """Calls on the audit log. The caller's token needs the scope admin."""

    def list(self, *, cursor: str | None = None, limit: int = 50, **filters: str | bool | datetime | None) -> AuditPage:
        """Return a page of entries, newest first.

        Args:
            cursor: ``next_cursor`` of the previous page.
            limit: Size of the page.
            filters: Token, person, action (or its beginning), kind, object, project, refused, since, until, count.
        """
        query = {"cursor": cursor, "limit": limit, **_as_query(filters)}
        return self._connection.send("GET", _PATH, AuditPage, query=query, idempotent=True)

    def __call__(self, **filters: Any) -> AuditPage:
        """Alias of ``list``, for scripts that call ``client.audit(…)``."""
        return self.list(**filters)

    def iterate(self, **filters: Any) -> Iterator[AuditEntry]:
        """Yield every entry that ``list`` finds with these filters, newest first, page by page."""
        return items_of_pages(self.list, **filters)

    def text(self, kind: Literal["csv", "jsonl"], **filters: str | bool | datetime | None) -> str:
        """Return all entries that the filters select, oldest first, as CSV or as one JSON object per line."""
        return self._connection.get_text(_PATH, query={"format": kind, **_as_query(filters)})


def _as_query(filters: dict[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in filters.items()}
