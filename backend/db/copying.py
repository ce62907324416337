"""Copies a database into an empty one of either kind, and compares the two by table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, Table, func, insert, literal, select, text
from sqlalchemy.exc import DBAPIError

from backend.db import migrate
from backend.db.engine import Database
from backend.db.models import Base

_ROWS = 2_000
_MODULUS = 1 << 128


class CopyError(Exception):
    """A database cannot be copied; the target is unchanged."""


@dataclass(frozen=True)
class TableDigest:
    """The number of rows of a table, and the sum of their hashes, which does not depend on their order."""

    rows: int
    digest: int

    @property
    def hex(self) -> str:
        """The sum of the hashes in 32 hexadecimal digits."""
        return f"{self.digest:032x}"


def copy_database(
    source: Database, target: Database, report: Callable[[str], object] = lambda _: None
) -> dict[str, TableDigest]:
    """Copy every row in one transaction. If the target has no schema, it gets the schema of this version.

    The source is read in one snapshot, so that rows written to it meanwhile are not copied. Source and target are read
    again and compared, table by table, before the target is committed.

    Args:
        report: Called with a sentence after each table.

    Returns:
        The digest of each table.

    Raises:
        CopyError: The source has another version, or the target contains rows or refuses one.
    """
    with snapshot(source) as reading:
        return copy_rows(reading, target, report)


def copy_rows(
    reading: Connection, target: Database, report: Callable[[str], object] = lambda _: None
) -> dict[str, TableDigest]:
    """Like ``copy_database``, from a connection whose transaction sees one snapshot."""
    head = migrate.head_revision()
    if (revision := migrate.revision_of(reading)) != head:
        raise CopyError(
            f"the source is at version {revision or 'none'}, not {head}; run `python -m backend migrate` on it"
        )
    if migrate.current_revision(target) == "":
        migrate.upgrade(target)
    if (revision := migrate.current_revision(target)) != head:
        raise CopyError(f"the target is at version {revision}, not {head}; give an empty database")
    digests: dict[str, TableDigest] = {}
    with target.write() as session:
        writing = session.connection()
        for table in Base.metadata.sorted_tables:
            if writing.execute(select(text("1")).select_from(table).limit(1)).first() is not None:
                raise CopyError(f"the target already contains rows, as in {table.name}; give an empty database")
        for table in Base.metadata.sorted_tables:
            try:
                for rows in _batches(reading, _insertable(table)):
                    writing.execute(insert(table), rows)
            except DBAPIError as error:
                reason = " ".join(str(error.orig).split())[:300]
                raise CopyError(f"the target refuses a row of {table.name}: {reason}") from error
            before, after = digest_of(reading, table), digest_of(writing, table)
            if before != after:
                raise CopyError(f"{table.name} has {after.rows} rows in the target, which differ from the source's")
            digests[table.name] = after
            _set_sequence(writing, table)
            report(f"{table.name}: {after.rows} rows")
    return digests


def digest_of(connection: Connection, table: Table) -> TableDigest:
    """Return the digest of a table, which is the same on both kinds of database."""
    rows = digest = 0
    for batch in _batches(connection, select(table)):
        rows += len(batch)
        for row in batch:
            row_text = json.dumps(row, sort_keys=True, default=_plain, ensure_ascii=True)
            digest = (digest + int.from_bytes(hashlib.blake2b(row_text.encode(), digest_size=16).digest())) % _MODULUS
    return TableDigest(rows, digest)


@contextmanager
def snapshot(database: Database) -> Iterator[Connection]:
    """Open a transaction that reads the database as it is now."""
    level = {} if database.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with database.engine.connect().execution_options(**level) as connection, connection.begin():
        yield connection


def _batches(connection: Connection, query: Select[Any]) -> Iterator[Sequence[Mapping[str, Any]]]:
    result = connection.execute(query, execution_options={"yield_per": _ROWS})
    for rows in result.mappings().partitions():
        yield [dict(row) for row in rows]


def _insertable(table: Table) -> Select[Any]:
    """Select all rows of a table, each after the rows of this table to which it refers."""
    return _teachers_first(table) if "teacher_run_id" in table.c and "role" in table.c else select(table)


def _teachers_first(runs: Table) -> Select[Any]:
    """Select all runs, each after its teacher, to which it refers."""
    level = select(runs.c.id, literal(0).label("level")).where(runs.c.teacher_run_id.is_(None)).cte(recursive=True)
    student = runs.alias()
    of_students = select(student.c.id, level.c.level + 1).join(level, student.c.teacher_run_id == level.c.id)
    level = level.union_all(of_students)
    return select(runs).join(level, level.c.id == runs.c.id).order_by(level.c.level)


def _set_sequence(connection: Connection, table: Table) -> None:
    """Set PostgreSQL's next number to follow the greatest stored number. SQLite needs no such step."""
    column = table.autoincrement_column
    if column is None or connection.dialect.name != "postgresql":
        return
    sequence = select(func.pg_get_serial_sequence(table.name, column.name)).scalar_subquery()
    greatest = select(func.max(column)).scalar_subquery()
    connection.execute(select(func.setval(sequence, func.coalesce(greatest, 1), greatest.is_not(None))))


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no table has a column of {type(value)}")
