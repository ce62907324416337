"""Column types and SQL that SQLite and PostgreSQL write differently."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pydantic_core
from sqlalchemy import JSON, BigInteger, DateTime, Integer
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

Json = JSON().with_variant(JSONB(), "postgresql")
BigInt = BigInteger().with_variant(Integer(), "sqlite")


def to_json(value: Any) -> str:
    """JSON of plain data, as ``json.dumps`` has it, in a quarter of the time."""
    try:
        return pydantic_core.to_json(value, inf_nan_mode="constants").decode()
    except ValueError:  # as of half a character, which UTF-8 has no bytes for
        return json.dumps(value)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC. SQLite keeps no zone, so it is taken off on the way in and put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment needs its time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class db_now(FunctionElement[datetime]):  # noqa: N801 (a SQL function, written as one)
    """The database's clock at this statement: leases of every backend and worker are measured by this one clock."""

    type = UtcDateTime()
    inherit_cache = True
    name = "db_now"


@compiles(db_now, "sqlite")
def _sqlite_now(element: db_now, compiler: SQLCompiler, **kw: Any) -> str:
    # The text form in which SQLAlchemy stores a DateTime, so that both compare as text.
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


@compiles(db_now, "postgresql")
def _postgresql_now(element: db_now, compiler: SQLCompiler, **kw: Any) -> str:
    return "clock_timestamp()"  # now() stands still within a transaction, also while it waits for a lock
