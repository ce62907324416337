"""Transactions that run one after another, in all replicas of the backend together."""

from __future__ import annotations

from enum import IntEnum

from sqlalchemy import Connection, func, select


class SerializedTask(IntEnum):
    """Transactions that must not overlap. The values are PostgreSQL's advisory locks, unique to this program."""

    UPLOADS = 0x646B642D75706C64
    REGISTRATIONS = 0x646B642D72656773


def serialize(connection: Connection, task: SerializedTask) -> None:
    """Wait for every other transaction of the task to end, and keep others waiting until this transaction ends.

    SQLite needs no lock: it has one writer at a time, in one process.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(int(task))))
