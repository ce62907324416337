"""INSERT … ON CONFLICT DO NOTHING, which the dialects of both databases name differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, TextClause, inspect, literal_column
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase


def insert_if_absent(
    connection: Connection,
    table: type[DeclarativeBase],
    values: Mapping[str, Any],
    *,
    unique: Sequence[str],
    where: TextClause | None = None,
) -> bool:
    """Insert a row unless a stored row has the same values in the columns of a unique index.

    If another transaction has inserted such a row and has not ended, the call waits for its end.

    Args:
        connection: Connection of the caller's transaction.
        table: The table.
        values: The row by column.
        unique: The columns of the index.
        where: The condition of the index, if it is a partial index.

    Returns:
        Whether the row was inserted.
    """
    statement = _insert_statement(connection.dialect.name, table).values(**values)
    statement = statement.on_conflict_do_nothing(index_elements=list(unique), index_where=where)
    # RETURNING, since a driver's row count is not reliable after an INSERT.
    return connection.execute(statement.returning(literal_column("1"))).first() is not None


def insert_new(
    connection: Connection,
    table: type[DeclarativeBase],
    rows: Sequence[Mapping[str, Any]],
    *,
    unique: Sequence[str],
    returning: str,
) -> list[Any]:
    """Insert each row unless a stored row, or an earlier row of the list, has the same values in the unique columns.

    Like ``insert_if_absent``, the call waits for other transactions that have inserted such rows.

    Args:
        connection: Connection of the caller's transaction.
        table: The table.
        rows: At least one row; all rows have the same keys.
        unique: The columns of the unique index.
        returning: Name of the column to return.

    Returns:
        The values of the column ``returning`` in the inserted rows.
    """
    return list(connection.scalars(_insert_new(connection.dialect.name, table, tuple(unique), returning), rows))


@cache
def _insert_new(dialect: str, table: type[DeclarativeBase], unique: tuple[str, ...], returning: str) -> Any:
    """Return the statement of ``insert_new``. Building it takes half as long as running it."""
    statement = _insert_statement(dialect, table).on_conflict_do_nothing(index_elements=unique)
    return statement.returning(inspect(table).local_table.c[returning])


def _insert_statement(dialect: str, table: type[DeclarativeBase]) -> Any:
    """Return the dialect's own INSERT: the two have the same methods, but no common type."""
    own = postgresql if dialect == "postgresql" else sqlite
    return own.insert(inspect(table).local_table)
