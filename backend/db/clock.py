"""The one clock that leases and records are measured by."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, select
from sqlalchemy.orm import Session

from backend.db.prepared import Prepared
from backend.db.types import db_now

_NOW = Prepared(select(db_now().label("now")))


def now(asked: Session | Connection) -> datetime:
    """The time by the database's clock, in UTC."""
    connection = asked if isinstance(asked, Connection) else asked.connection()
    moment: datetime = _NOW.rows(connection, {})[0].now
    return moment
