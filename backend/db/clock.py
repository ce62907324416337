"""The clock that dates all leases and records."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from backend.db.types import db_now

_NOW = select(db_now())


def now(database: Session | Connection) -> datetime:
    """Return the time of the database's clock in UTC; SQLite's clock is this machine's."""
    connection = database if isinstance(database, Connection) else database.connection()
    if connection.dialect.name == "sqlite":  # SQLite runs in this process and has milliseconds
        time = datetime.now(UTC)
        return time.replace(microsecond=time.microsecond // 1000 * 1000)
    return connection.execute(_NOW).scalar_one()
