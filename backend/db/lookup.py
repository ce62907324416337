"""One row by its key, outside any transaction: what is asked with every request."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Select
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError

from backend.db.engine import Database


class Lookup:
    """A statement that finds a row by its key, made once.

    On SQLite the driver itself carries it out: SQLAlchemy's connection, transaction and result take seven times as
    long as the row does to find.
    """

    def __init__(self, statement: Select[Any]) -> None:
        dialect = sqlite.dialect()
        compiled = statement.compile(dialect=dialect)
        self._statement = statement
        self._sql, self._names = str(compiled), compiled.positiontup or []
        columns = statement.selected_columns
        self._reads = [column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns]

    def find(self, database: Database, values: Mapping[str, Any]) -> Sequence[Any] | None:
        """The row, None where there is none. Raises what any statement raises."""
        if not database.is_sqlite:
            with database.engine.connect() as connection:
                return connection.execute(self._statement, values).one_or_none()
        borrowed = database.engine.raw_connection()
        try:
            # All, so that the statement is at its end and holds no snapshot.
            rows = borrowed.cursor().execute(self._sql, [values[name] for name in self._names]).fetchall()
        except sqlite3.Error as error:
            raise DBAPIError.instance(self._sql, None, error, sqlite3.Error) from error
        finally:
            borrowed.close()
        if not rows:
            return None
        return [read(item) if read else item for read, item in zip(self._reads, rows[0], strict=True)]
