"""The time at which each token was last used, written in the background and seldom enough to cost nothing."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from datetime import timedelta

import structlog
from sqlalchemy import Connection, bindparam, case, or_, update
from sqlalchemy.exc import SQLAlchemyError

from backend.db import Database, now
from backend.db.models import Token

_log = structlog.get_logger(__name__)

INTERVAL_SECONDS = 300.0
"""A process writes the last use of a token at most once in this time."""
_FLUSH_SECONDS = 20.0
_MAX_TOKENS = 100_000
_IDLE_END = bindparam("idle_end", type_=Token.idle_ends_at.type)
_UPDATE = (
    update(Token)
    .where(Token.id == bindparam("token"), or_(Token.last_used_at.is_(None), Token.last_used_at < bindparam("time")))
    .values(
        last_used_at=bindparam("time"), idle_ends_at=case((Token.session.is_not(None), _IDLE_END), else_=None)
    )  # only sessions have one
)


class LastUse:
    """Notes uses of tokens in memory, and writes them all in one transaction.

    A request only looks into a dictionary. The written time is that of the transaction, at most ``_FLUSH_SECONDS``
    after the use; a later use is not written for ``INTERVAL_SECONDS``. A use of a session moves its idle end.

    Args:
        database: The database.
        clock: Returns the time in seconds.
        idle: Time without a use after which a session ends.
    """

    def __init__(
        self,
        database: Database,
        clock: Callable[[], float] = time.monotonic,
        *,
        idle: timedelta = timedelta(days=7),
    ) -> None:
        self._database = database
        self._idle = idle
        self._clock = clock
        self._noted_at: dict[str, float] = {}
        self._pending: set[str] = set()

    def note(self, token_id: str) -> None:
        """Note a use of a token. Called on the event loop."""
        noted_at = self._noted_at.get(token_id)
        now_seconds = self._clock()
        if noted_at is not None and now_seconds - noted_at < INTERVAL_SECONDS:
            return
        if len(self._noted_at) >= _MAX_TOKENS:
            self._noted_at.clear()
        self._noted_at[token_id] = now_seconds
        self._pending.add(token_id)

    async def flush(self) -> None:
        """Write the noted uses. An error is logged, and the uses are written later."""
        tokens, self._pending = self._pending, set()
        if not tokens:
            return

        def write(connection: Connection) -> None:
            written_at = now(connection)
            times = {"time": written_at, "idle_end": written_at + self._idle}
            connection.execute(_UPDATE, [{"token": token, **times} for token in sorted(tokens)])

        try:
            await self._database.write_async(write)
        except SQLAlchemyError as error:
            _log.warning("the last use of tokens could not be written", error=str(error))
            self._pending |= tokens

    async def run_until(self, stop: asyncio.Event) -> None:
        """Write the noted uses from time to time, and once more when ``stop`` is set."""
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _FLUSH_SECONDS)
            await self.flush()
