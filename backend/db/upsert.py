"""INSERT … ON CONFLICT DO NOTHING, which both databases have under different names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, TextClause, inspect, literal_column
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase

from backend.db.prepared import Prepared


def insert_if_absent(
    connection: Connection,
    table: type[DeclarativeBase],
    values: Mapping[str, Any],
    *,
    unique: Sequence[str],
    where: TextClause | None = None,
) -> bool:
    """Insert one row unless the unique index has one like it. Waits for a transaction that is just inserting it.

    Args:
        unique: the columns of that index.
        where: its condition, where it is a partial one.

    Returns:
        whether the row was inserted.
    """
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(inspect(table).local_table).values(**values)
    statement = statement.on_conflict_do_nothing(index_elements=list(unique), index_where=where)
    # Asked for, since a driver's row count is not reliable after an INSERT.
    return connection.execute(statement.returning(literal_column("1"))).first() is not None


def new_rows(table: type[DeclarativeBase], *, unique: Sequence[str], returning: str) -> Prepared:
    """Inserts the rows that the unique index has none like, also among themselves. Waits as ``insert_if_absent`` does.

    Args:
        returning: the column whose values, of the rows inserted, it returns.
    """
    target = inspect(table).local_table
    postgres, lite = (
        dialect.insert(target).on_conflict_do_nothing(index_elements=list(unique)).returning(target.c[returning])
        for dialect in (postgresql, sqlite)
    )
    return Prepared(postgres, sqlite=lite)
