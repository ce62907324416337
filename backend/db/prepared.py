"""Statements that are carried out with every request or every report of a training, made once.

On SQLite the driver itself carries them out: what SQLAlchemy adds takes several times as long as it takes to find or to
write a few rows of a local file. Over a network it does not count, and SQLAlchemy carries them out.
"""

from __future__ import annotations

import sqlite3
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, cast

from sqlalchemy import JSON, ClauseElement, ColumnElement, Connection, Select, any_, bindparam, func, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine.interfaces import DBAPICursor
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.selectable import ReturnsRows
from sqlalchemy.types import TypeEngine

from backend.db.engine import SQLITE, Database, refusal

Values = Mapping[str, Any]
_Turns = Callable[[Any], Any]


class Prepared:
    """A statement with parameters, to be carried out again and again.

    Args:
        statement: a select, insert or update.
        sqlite: its form for SQLite, where that has another.
    """

    def __init__(self, statement: Any, *, sqlite: Any = None) -> None:
        self._statement = statement
        self._sqlite: ClauseElement = statement if sqlite is None else sqlite
        self._made: dict[tuple[str, ...], _OfDriver] = {}

    @classmethod
    def among(cls, query: Select[*tuple[Any, ...]], column: ColumnElement[Any], name: str) -> Self:
        """The query, of those rows whose column is one of a list: the parameter ``name``, of any length."""
        listed = bindparam(name, type_=postgresql.ARRAY(column.type))
        parsed = func.json_each(bindparam(name, type_=JSON)).table_valued("value")
        return cls(query.where(column == any_(listed)), sqlite=query.where(column.in_(select(parsed.c.value))))

    def find(self, database: Database, values: Values) -> Any | None:
        """The row that it selects, outside any transaction; None where there is none.

        Raises, as the others do, what SQLAlchemy raises.
        """
        if not database.is_sqlite:
            with database.engine.connect() as connection:
                return connection.execute(self._statement, values).one_or_none()
        with database.driver() as driver:
            rows = self._for(values).rows(driver, values)
        return rows[0] if rows else None

    def rows(self, connection: Connection, values: Values) -> Sequence[Any]:
        """What it selects, in the connection's transaction: a tuple a row, with the columns' names."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self._statement, values).all()
        return self._for(values).rows(connection.connection.driver_connection, values)

    def each(self, connection: Connection, rows: Sequence[Values]) -> Sequence[Any]:
        """What it returns, carried out for each of the rows, which have the same keys."""
        if connection.dialect.name != "sqlite":
            return connection.execute(self._statement, rows).all()
        return [found for row in rows for found in self.rows(connection, row)]

    def run(self, connection: Connection, *rows: Values) -> None:
        """Carry it out once for each of the rows, which have the same keys, in the connection's transaction."""
        if connection.dialect.name != "sqlite":
            connection.execute(self._statement, rows)
        else:
            self._for(rows[0]).run(connection.connection.driver_connection, rows)

    def _for(self, values: Values) -> _OfDriver:
        """What the driver is given: an update has other columns with other keys."""
        keys = tuple(values)
        made = self._made.get(keys)
        if made is None:
            made = self._made[keys] = _OfDriver(self._sqlite, keys)
        return made


class _OfDriver:
    """A statement as SQLite's driver takes it, with what turns values into the database's and back."""

    def __init__(self, statement: ClauseElement, keys: Sequence[str]) -> None:
        compiled = cast(SQLCompiler, statement.compile(dialect=SQLITE, column_keys=[*keys]))
        self._sql = str(compiled)
        own = dict(compiled.params)
        for column in (*compiled.insert_prefetch, *compiled.update_prefetch):
            own[column.key] = _default(column)
        # What is the same every time is turned once; of the rest, where it stands, its name, and what turns it.
        self._values: list[Any] = []
        self._given: list[tuple[int, str, _Turns | None]] = []
        for name in compiled.positiontup or ():
            write = _dialect_type(compiled.binds[name].type).bind_processor(SQLITE)
            if name in keys:
                self._given.append((len(self._values), name, write))
            self._values.append(write(own[name]) if write and name not in keys else own[name])
        columns = [*statement.exported_columns] if isinstance(statement, ReturnsRows) else []
        self._row: Any = namedtuple("Row", [column.name for column in columns])  # type: ignore[misc]
        reads = (_dialect_type(column.type).result_processor(SQLITE, None) for column in columns)
        self._reads = [(position, read) for position, read in enumerate(reads) if read]

    def rows(self, driver: Any, values: Values) -> list[Any]:
        # All, so that the statement is at its end and holds no snapshot.
        return [self._read(row) for row in self._done(driver.execute, self._bound(values)).fetchall()]

    def _read(self, row: Sequence[Any]) -> Any:
        found = list(row)
        for position, read in self._reads:
            found[position] = read(found[position])
        return self._row._make(found)

    def run(self, driver: Any, rows: Sequence[Values]) -> None:
        if len(rows) == 1:
            self._done(driver.execute, self._bound(rows[0]))
        else:
            self._done(driver.executemany, [self._bound(row) for row in rows])

    def _bound(self, values: Values) -> list[Any]:
        found = self._values.copy()
        for position, name, write in self._given:
            value = values[name]
            found[position] = write(value) if write else value
        return found

    def _done(self, execute: Callable[[str, list[Any]], DBAPICursor], values: list[Any]) -> DBAPICursor:
        try:
            return execute(self._sql, values)
        except sqlite3.Error as error:
            raise refusal(self._sql, values, error) from error


def _default(column: Any) -> Any:
    """Of a column that no value is given for. Raises TypeError for one that is another with each row."""
    default = column.default
    if default.is_scalar:
        return default.arg
    if default.is_callable and isinstance(value := default.arg(None), list | dict):
        return value
    raise TypeError(f"give values of {column.name}: its default is SQLAlchemy's, and this leaves it out")


def _dialect_type(type_: TypeEngine[Any]) -> TypeEngine[Any]:
    return type_.dialect_impl(SQLITE)
