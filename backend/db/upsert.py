"""INSERT … ON CONFLICT DO NOTHING, which the dialects of both databases name differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """Insert a row unless the unique index has an equal one. Waits for a transaction that is just inserting it.

    Args:
        unique: The columns of the index.
        where: The condition of the index, if it is a partial one.

    Returns:
        Whether the row was inserted.
    """
    statement = _insert(connection, table).values(**values)
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
    """Insert those rows that the unique index, and the rows before them, have no equal of.

    Waits as ``insert_if_absent`` does.

    Args:
        rows: At least one; all have the same keys.
        unique: The columns of the index.
        returning: A column.

    Returns:
        The values of that column in the rows inserted.
    """
    statement = _insert(connection, table).on_conflict_do_nothing(index_elements=list(unique))
    column = inspect(table).local_table.c[returning]
    return list(connection.scalars(statement.returning(column), rows))


def _insert(connection: Connection, table: type[DeclarativeBase]) -> Any:
    """Return the dialect's own INSERT: the two have the same methods, but no common type."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(inspect(table).local_table)
