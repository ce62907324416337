"""Transactions of one kind that run one after another, in any replica of the backend."""

from __future__ import annotations

from enum import IntEnum

from sqlalchemy import Connection, func, select


class Turn(IntEnum):
    """Numbers of PostgreSQL's advisory locks: any that nothing else of ours uses."""

    UPLOADS = 0x646B642D75706C64
    REGISTRATIONS = 0x646B642D72656773


def take_turn(connection: Connection, turn: Turn) -> None:
    """Wait until no other transaction has this turn; the end of this transaction gives it to the next.

    SQLite needs none: it has one writer at a time, in one process.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(int(turn))))
