"""Keyset pagination: pages of a list in any order, by opaque cursors.

A cursor holds the sort value and the id of the last row of a page. Rows that appear or vanish between two pages are
therefore neither repeated nor skipped.
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
class SortOrder:
    """A sort order of rows.

    Attributes:
        name: Its name in requests; a cursor is valid for one sort order only.
        by: The sort column, never NULL; None to sort by id alone.
        row_id: The id column, which breaks ties.
        kind: Type of the values of ``by``.
        descending: Greatest first.
    """

    name: str
    by: ColumnElement[Any] | None
    row_id: ColumnElement[str]
    kind: type[str | int | float | datetime]
    descending: bool

    def apply(self, query: Select[*tuple[Any, ...]], cursor: str | None) -> Any:
        """Return the query in this order, starting after the cursor."""
        columns = [self.row_id] if self.by is None else [self.by, self.row_id]
        if cursor:
            query = query.where(self._after(cursor))
        return query.order_by(*(column.desc() if self.descending else column.asc() for column in columns))

    def cursor(self, value: Any, row_id: str) -> str:
        """Return the cursor of a row.

        Args:
            value: The row's value of ``by``.
            row_id: The row's id.
        """
        json_value = value.isoformat() if isinstance(value, datetime) else value
        text = json.dumps([self.name, json_value, row_id], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    def _after(self, cursor: str) -> ColumnElement[bool]:
        value, row_id = self._read(cursor)
        id_condition = self.row_id < row_id if self.descending else self.row_id > row_id
        if self.by is None:
            return id_condition
        return or_(self.by < value if self.descending else self.by > value, and_(self.by == value, id_condition))

    def _read(self, cursor: str) -> tuple[Any, str]:
        """Return the sort value and the row id of a cursor.

        Raises:
            ApiError: 422 if this list has not made the cursor in this order.
        """
        try:
            padded = cursor.encode() + b"=" * (-len(cursor) % 4)
            name, value, row_id = read_json(base64.urlsafe_b64decode(padded), _BOUNDS)
            if self.by is None:
                value = None
            elif self.kind is datetime:
                value = datetime.fromisoformat(value)
                if value.tzinfo is None:
                    raise ValueError
                value = value.astimezone(UTC)
            elif self.kind is float:
                value = float(value)
            valid_type = self.by is None or (isinstance(value, self.kind) and not isinstance(value, bool))
        except (binascii.Error, UnicodeError, ValueError, TypeError, OverflowError):
            raise _invalid_cursor() from None
        if not valid_type or name != self.name or not isinstance(row_id, str) or not _ID.fullmatch(row_id):
            raise _invalid_cursor()
        return value, row_id


def _invalid_cursor() -> ApiError:
    text = "this cursor does not belong to this list in this order; start again without a cursor"
    return invalid(text, ProblemField(path="cursor", message="unknown"))
