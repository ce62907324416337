"""Tells the workers at once that something has become ready, and tells them once where many ask within a moment."""

from __future__ import annotations

import asyncio
import contextlib

import structlog
from sqlalchemy.exc import SQLAlchemyError

from backend.db import Database
from backend.queue.nudge import Nudger
from backend.queue.reconciler import send_nudges

_log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 0.1


class NudgeDebouncer:
    """Counts what is ready and sends the nudges, apart from the requests that ask for it.

    A queue that is filled request by request would otherwise be counted anew by each of them.
    """

    def __init__(self, database: Database, nudger: Nudger) -> None:
        self._database = database
        self._nudger = nudger
        self._asked = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def request(self) -> None:
        """Have what is committed by now be told, from any thread. What a stop loses, the reconciler repeats."""
        if self._loop is not None and not self._asked.is_set():  # else it has yet to look at what is ready
            self._loop.call_soon_threadsafe(self._asked.set)

    async def run_until(self, stop: asyncio.Event) -> None:
        """To be stopped, not cancelled: it asks the database in a thread."""
        self._loop = asyncio.get_running_loop()
        stopped = asyncio.create_task(stop.wait())
        while not stop.is_set():
            asked = asyncio.create_task(self._asked.wait())
            await asyncio.wait({asked, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not asked.done():
                asked.cancel()
                break
            self._asked.clear()
            try:
                await asyncio.to_thread(send_nudges, self._database, self._nudger)
            except SQLAlchemyError as error:
                _log.error("the workers could not be told; they find runs by their heartbeats", error=str(error))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), _PAUSE_SECONDS)
        self._loop = None
