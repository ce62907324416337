"""The one clock that leases and records are measured by."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from backend.db.types import db_now

_NOW = select(db_now())


def now(asked: Session | Connection) -> datetime:
    """The time by the database's clock, in UTC; SQLite's is this machine's."""
    connection = asked if isinstance(asked, Connection) else asked.connection()
    if connection.dialect.name == "sqlite":  # which runs in this process and has milliseconds
        moment = datetime.now(UTC)
        return moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    return connection.execute(_NOW).scalar_one()
