"""INSERT … ON CONFLICT DO NOTHING, which both databases have under different names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import TextClause, inspect, literal_column
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Session


def insert_if_absent(
    session: Session,
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
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    statement = dialect.insert(inspect(table).local_table).values(**values)
    statement = statement.on_conflict_do_nothing(index_elements=list(unique), index_where=where)
    # Asked for, since a driver's row count is not reliable after an INSERT.
    return session.execute(statement.returning(literal_column("1"))).first() is not None


def insert_new(
    session: Session,
    table: type[DeclarativeBase],
    rows: Sequence[Mapping[str, Any]],
    *,
    unique: Sequence[str],
    returning: str,
) -> set[Any]:
    """Insert those rows that the unique index has none like, also among themselves; waits as ``insert_if_absent`` does.

    Args:
        returning: a column that tells the rows apart.

    Returns:
        that column's values of the rows inserted.
    """
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    target = inspect(table).local_table
    statement = dialect.insert(target).on_conflict_do_nothing(index_elements=list(unique))
    return set(session.connection().execute(statement.returning(target.c[returning]), [*rows]).scalars())
