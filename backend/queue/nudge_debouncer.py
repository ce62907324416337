"""Nudges the workers as soon as runs become eligible, and combines requests that come in quick succession."""

from __future__ import annotations

import asyncio
import contextlib

import structlog
from sqlalchemy.exc import SQLAlchemyError

from backend.db import Database
from backend.queue.nudge import Nudger
from backend.queue.reconciler import send_nudges

_log = structlog.get_logger(__name__)

_INTERVAL_SECONDS = 0.1


class NudgeDebouncer:
    """Counts eligible runs and sends nudges outside the requests that make runs eligible.

    Otherwise each of many consecutive submissions would count the whole queue again.

    Args:
        database: The database.
        nudger: Sends the nudges.
    """

    def __init__(self, database: Database, nudger: Nudger) -> None:
        self._database = database
        self._nudger = nudger
        self._requested = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def request(self) -> None:
        """Request nudges for the runs committed so far. Thread-safe. The reconciler makes up for lost requests."""
        if self._loop is not None and not self._requested.is_set():  # otherwise a request is pending
            self._loop.call_soon_threadsafe(self._requested.set)

    async def run_until(self, stop: asyncio.Event) -> None:
        """Send nudges until ``stop`` is set. Stop it, do not cancel it: it uses the database in a thread."""
        self._loop = asyncio.get_running_loop()
        stopped = asyncio.create_task(stop.wait())
        while not stop.is_set():
            requested = asyncio.create_task(self._requested.wait())
            await asyncio.wait({requested, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not requested.done():
                requested.cancel()
                break
            self._requested.clear()
            try:
                await asyncio.to_thread(send_nudges, self._database, self._nudger)
            except SQLAlchemyError as error:
                _log.error("nudges could not be sent; workers learn of runs by their heartbeats", error=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _INTERVAL_SECONDS)
        self._loop = None
