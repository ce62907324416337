"""Refused attempts at changes (401, 403), counted so that a flood of them cannot fill the audit log."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from backend.audit.changes import Change
from backend.db import Database

_log = structlog.get_logger(__name__)

WINDOW_SECONDS = 60.0
"""Equal attempts within this time become two rows: the first at once, and the number of the others at the end."""
MAX_KINDS = 200
"""Different attempts in one window; further ones are counted together."""


@dataclass
class _Counted:
    """An attempt whose repetitions are counted until ``until``."""

    change: Change
    status: int
    until: float
    more: int = 0


class Refusals:
    """Records refused attempts.

    Two attempts are equal if address, token, action and status are, and for a sign-in the person. The counts of one
    process are in its memory until their window ends, and are stored when the process stops. Sign-ins are stored some
    seconds later, or when somebody reads the log: the first attempt with each name that exists has a row, and
    the time that this row takes must not tell the sender that the name exists.

    Args:
        database: The database.
        clock: Returns seconds; replaced in tests.
    """

    def __init__(self, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database
        self._clock = clock
        # Only the event loop's thread uses these two.
        self._windows: dict[tuple[str, str, str, int], _Counted] = {}
        self._sign_ins: list[tuple[Change, int]] = []

    async def record(self, change: Change, status: int) -> None:
        """Record an attempt. An error of the database is logged: the sender gets the refusal in any case."""
        # Failed sign-ins name people who exist, and nothing that the sender invents.
        sign_in = change.action.startswith("sessions.sign_in")
        person = change.object if sign_in else ""
        key = (change.address, change.token_id + person, change.action, status)
        if key not in self._windows and len(self._windows) >= MAX_KINDS:
            change = Change("several", details={"note": "attempts beyond the number that is recorded one by one"})
            key = ("", "", change.action, status)
        window = self._windows.get(key)
        if window is not None:
            window.more += 1
            return
        self._windows[key] = _Counted(change, status, self._clock() + WINDOW_SECONDS)
        if sign_in:
            self._sign_ins.append((change, status))
        else:
            await self._store([(change, status)])

    async def store_sign_ins(self) -> None:
        """Store the refused sign-ins that are not stored yet."""
        refused, self._sign_ins = self._sign_ins, []
        await self._store(refused)

    async def flush(self, *, everything: bool = False) -> None:
        """Store refused sign-ins, and the counts of the windows that have ended.

        Args:
            everything: Also of those that have not ended.
        """
        await self.store_sign_ins()
        time_now = self._clock()
        ended = {key: item for key, item in self._windows.items() if everything or item.until <= time_now}
        for key in ended:
            del self._windows[key]
        await self._store(
            [
                (replace(item.change, details={**item.change.details, "repeated": item.more}), item.status)
                for item in ended.values()
                if item.more
            ]
        )

    async def run_until(self, stop: asyncio.Event) -> None:
        """Store counts as their windows end, until ``stop`` is set; then store all of them."""
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), WINDOW_SECONDS / 4)
            await self.flush(everything=stop.is_set())

    async def _store(self, refused: list[tuple[Change, int]]) -> None:
        def work(connection: Connection) -> None:
            for change, status in refused:
                change.insert(connection, status)

        if not refused:
            return
        try:
            await self._database.write_async(work)
        except SQLAlchemyError as error:
            _log.error("a refused attempt cannot be recorded", error=str(error))
