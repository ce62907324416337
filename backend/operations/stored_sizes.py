"""Measures the files of attempts that have ended, once for each, for the quotas of disk space."""

from __future__ import annotations

import asyncio
import contextlib

import structlog
from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError

from backend.artifacts.run_files import Store
from backend.db import Database
from backend.db.models import Attempt
from backend.settings import Settings
from common.object_store import StoreError

_log = structlog.get_logger(__name__)

_MOST = 200
"""Attempts that are measured in one transaction."""


class StoredSizes:
    """Stores the size of each attempt's files after its end. Replicas of the backend may run it concurrently.

    A quota is then a sum over rows, without a look at the disk. The files of a training that runs are not counted yet.

    Args:
        database: The database.
        store: The artifact store.
        settings: The backend's settings.
    """

    def __init__(self, database: Database, store: Store, settings: Settings) -> None:
        self._database = database
        self._store = store
        self._settings = settings

    def run_once(self) -> int:
        """Measure the attempts that ended since the last time.

        Returns:
            Their number, at most ``_MOST``.

        Raises:
            OSError: The store does not answer.
        """
        unmeasured = select(Attempt.run_id, Attempt.number).where(
            Attempt.stored_bytes.is_(None), Attempt.ended_at.is_not(None)
        )
        with self._database.read() as session:
            keys = session.execute(unmeasured.order_by(Attempt.ended_at).limit(_MOST)).all()
        sizes = [sum(file.size for file in self._store.files(run_id, [number])) for run_id, number in keys]
        if keys:
            with self._database.write() as session:
                for (run_id, number), size in zip(keys, sizes, strict=True):
                    attempt = (Attempt.run_id == run_id) & (Attempt.number == number)
                    session.execute(update(Attempt).where(attempt).values(stored_bytes=size))
        return len(keys)

    async def run_until(self, stop: asyncio.Event) -> None:
        """Measure every ``reconcile_seconds``, and without a pause while more are left, until ``stop`` is set."""
        while not stop.is_set():
            measured = 0
            try:
                measured = await asyncio.to_thread(self.run_once)
            except (OSError, StoreError, SQLAlchemyError) as error:
                _log.warning("sizes of stored files cannot be measured", error=str(error))
            if measured < _MOST:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), self._settings.reconcile_seconds)
