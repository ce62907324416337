"""A whole database into another one, of the other kind or the same, and an online copy of a SQLite file."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Table, func, insert, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from backend.db import migrate
from backend.db.engine import Database
from backend.db.models import Base
from common.atomic_write import atomic_path

_ROWS = 2_000
_MODULUS = 1 << 128


class CopyError(Exception):
    """Why a database is not copied, in a sentence. The target is as it was."""


@dataclass(frozen=True)
class Content:
    """What a table holds: how many rows, and the sum of their hashes, which no order changes."""

    rows: int
    digest: int


def copy(source: Database, target: Database, say: Callable[[str], object] = lambda _: None) -> dict[str, int]:
    """Copy every row. The target gets this version's schema where it has none; all of it comes, or nothing.

    The source is read as it was at one moment, and must not be written meanwhile: what comes later is not copied.
    Afterwards both are read again and compared, table by table, before the target is committed.

    Args:
        say: told of each table when it has been copied.

    Returns:
        rows by table.

    Raises:
        CopyError: the source is of another version, the target holds rows, or refuses one.
    """
    wanted = migrate.head_revision()
    if (found := migrate.current_revision(source)) != wanted:
        raise CopyError(
            f"the source is at version {found or 'none'}, not {wanted}; run `python -m backend migrate` on it"
        )
    if migrate.current_revision(target) == "":
        migrate.upgrade(target)
    if (found := migrate.current_revision(target)) != wanted:
        raise CopyError(f"the target is at version {found}, not {wanted}; give an empty database")
    counts: dict[str, int] = {}
    with _snapshot(source) as reading, target.write() as session:
        writing = session.connection()
        for table in Base.metadata.sorted_tables:
            if writing.execute(select(text("1")).select_from(table).limit(1)).first() is not None:
                raise CopyError(f"the target holds rows already, as in {table.name}; give an empty database")
        for table in Base.metadata.sorted_tables:
            try:
                for rows in _batches(reading, table):
                    writing.execute(insert(table), rows)
            except DBAPIError as error:
                said = " ".join(str(error.orig).split())[:300]
                raise CopyError(f"the target refuses a row of {table.name}: {said}") from error
            before, after = content(reading, table), content(writing, table)
            if before != after:
                raise CopyError(f"{table.name} has {after.rows} rows in the target, and they are not the source's")
            counts[table.name] = after.rows
            _count_on(writing, table)
            say(f"{table.name}: {after.rows} rows")
    return counts


def content(connection: Connection, table: Table) -> Content:
    """What a table holds, in a form that is the same on both kinds of database."""
    rows = digest = 0
    for batch in _batches(connection, table):
        rows += len(batch)
        for row in batch:
            plain = json.dumps(row, sort_keys=True, default=_plain, ensure_ascii=True)
            digest = (digest + int.from_bytes(hashlib.blake2b(plain.encode(), digest_size=16).digest())) % _MODULUS
    return Content(rows, digest)


def backup_sqlite(url: str | URL, file: Path) -> int:
    """Copy a SQLite database to a file while it is in use. The file appears whole, checked and on the disk, or not.

    Returns:
        its size in bytes.

    Raises:
        CopyError: the database is no file of SQLite's, the file is there already, or the copy is damaged.
    """
    source = make_url(url).database
    if make_url(url).get_backend_name() != "sqlite" or not source or not Path(source).is_file():
        raise CopyError("this makes a copy of a SQLite file; PostgreSQL has pg_dump, see docs/operations.md")
    if file.exists():
        raise CopyError(f"{file} is there already; a backup is not written over")
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.partial")
    # Private: the hashes of tokens are in it.
    with (
        atomic_path(file, temporary=temporary, private=True, sync=True, replace=False) as partial,
        closing(sqlite3.connect(source)) as reading,
        closing(sqlite3.connect(partial)) as writing,
    ):
        reading.backup(writing)
        writing.execute("PRAGMA journal_mode=DELETE").close()  # one file, without companions
        if writing.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise CopyError("the database is damaged: its copy does not pass SQLite's check")
    return file.stat().st_size


@contextmanager
def _snapshot(database: Database) -> Iterator[Connection]:
    """The database as it is at one moment."""
    level = {} if database.is_sqlite else {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with database.engine.connect().execution_options(**level) as connection, connection.begin():
        yield connection


def _batches(connection: Connection, table: Table) -> Iterator[Sequence[Mapping[str, Any]]]:
    query = select(table)
    if "role" in table.c:  # a student refers to its teacher
        query = query.order_by(table.c.role.desc())
    result = connection.execute(query, execution_options={"yield_per": _ROWS})
    for rows in result.mappings().partitions():
        yield [dict(row) for row in rows]


def _count_on(connection: Connection, table: Table) -> None:
    """Have the next number that PostgreSQL gives follow the greatest there is; SQLite does so by itself."""
    column = table.autoincrement_column
    if column is None or connection.dialect.name != "postgresql":
        return
    sequence = select(func.pg_get_serial_sequence(table.name, column.name)).scalar_subquery()
    greatest = select(func.max(column)).scalar_subquery()
    connection.execute(select(func.setval(sequence, func.coalesce(greatest, 1), greatest.is_not(None))))


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value)} is none of the tables' types")
