"""Pages of a list in any order. A cursor is opaque: where the last page ended, not how many pages there were.

It holds the last row's place in the order and its id, so that rows which come or go meanwhile are neither doubled nor
passed over.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, and_, or_

from backend.errors import ApiError, invalid
from common.input_bounds import ID_PATTERN, JsonBounds, read_json
from core.protocol.public import ProblemField

_BOUNDS = JsonBounds(depth=1, values=4, items=3)
_ID = re.compile(ID_PATTERN)


@dataclass(frozen=True)
class Order:
    """An order of rows.

    Attributes:
        name: as the request says it; a cursor of one order means nothing in another.
        by: what is sorted by, never NULL; None for the id alone.
        row_id: that settles ties.
        kind: of the values of ``by``.
        descending: greatest first.
    """

    name: str
    by: ColumnElement[Any] | None
    row_id: ColumnElement[str]
    kind: type[str | int | float | datetime]
    descending: bool

    def applied(self, query: Select[*tuple[Any, ...]], cursor: str | None) -> Any:
        """The query in this order, from behind the cursor on."""
        columns = [self.row_id] if self.by is None else [self.by, self.row_id]
        if cursor:
            query = query.where(self._behind(cursor))
        return query.order_by(*(column.desc() if self.descending else column.asc() for column in columns))

    def cursor(self, value: Any, row_id: str) -> str:
        """Of a row whose ``by`` has this value."""
        plain = value.isoformat() if isinstance(value, datetime) else value
        text = json.dumps([self.name, plain, row_id], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def _behind(self, cursor: str) -> ColumnElement[bool]:
        value, row_id = self._read(cursor)
        beyond = self.row_id < row_id if self.descending else self.row_id > row_id
        if self.by is None:
            return beyond
        return or_(self.by < value if self.descending else self.by > value, and_(self.by == value, beyond))

    def _read(self, cursor: str) -> tuple[Any, str]:
        """Raises ApiError 422 where it is not one of ours."""
        try:
            found = read_json(base64.urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4)), _BOUNDS)
            name, value, row_id = found
            if self.by is None:
                value = None
            elif self.kind is datetime:
                value = datetime.fromisoformat(value)
                if value.tzinfo is None:
                    raise ValueError
                value = value.astimezone(UTC)
            elif self.kind is float:
                value = float(value)
            fits = self.by is None or (isinstance(value, self.kind) and not isinstance(value, bool))
        except (binascii.Error, UnicodeError, ValueError, TypeError, OverflowError):
            raise _unknown() from None
        if not fits or name != self.name or not isinstance(row_id, str) or not _ID.fullmatch(row_id):
            raise _unknown()
        return value, row_id


def _unknown() -> ApiError:
    text = "this cursor is not one that this list has given out in this order"
    return invalid(text, ProblemField(path="cursor", message="unknown"))
