"""Nudges: messages to workers that runs can be claimed. They contain no data, and may be lost, repeated or late."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import structlog

from backend.settings import Settings
from common.celery_config import NUDGE_QUEUE, NUDGE_TASK, celery_settings

_log = structlog.get_logger(__name__)

_CONNECT_SECONDS = 2.0
_RETRY_AFTER_SECONDS = 10.0  # how long a broker that did not respond is not used
_KEEP_SECONDS = 60.0  # a nudge that is not consumed by then has been repeated
_KEEP_PROCESSED_SECONDS = 3600.0


class Nudger:
    """Sends nudges over Celery. An unreachable broker is logged once and otherwise ignored.

    Args:
        settings: The backend's settings.
    """

    def __init__(self, settings: Settings) -> None:
        self._url = settings.broker_url
        self._folder = settings.broker_folder
        self._lock = threading.Lock()
        self._celery: Any = None
        self._unavailable_until = 0.0  # on the monotonic clock; 0 while the broker responds

    def send(self, count: int) -> None:
        """Send ``count`` nudges. Never raises: the reconciler and the heartbeats make up for lost ones."""
        if count < 1:
            return
        with self._lock:
            if time.monotonic() < self._unavailable_until:
                return  # another thread found the broker unreachable while this one waited for the lock
            try:
                celery = self._connect()
                for _ in range(count - self._backlog()):
                    celery.send_task(
                        NUDGE_TASK, queue=NUDGE_QUEUE, retry=False, ignore_result=True, expires=_KEEP_SECONDS
                    )
            except Exception as error:  # noqa: BLE001 (every transport has its own exceptions)
                if not self._unavailable_until:
                    _log.warning("broker unavailable; workers learn of runs by their heartbeats", error=str(error))
                self._unavailable_until = time.monotonic() + _RETRY_AFTER_SECONDS
                return
            if self._unavailable_until:
                _log.info("broker available again")
            self._unavailable_until = 0.0

    def _backlog(self) -> int:
        """Return the number of messages that are not consumed yet; more of them would not be consumed sooner."""
        # Only files that can be nudges: others are never consumed and must not prevent nudges.
        messages = (self._folder / "messages").glob(f"*.{NUDGE_QUEUE}.msg") if self._is_filesystem else ()
        return sum(1 for path in messages if path.is_file() and not path.is_symlink())

    def prune(self) -> None:
        """Delete consumed messages, which the filesystem transport keeps."""
        if not self._is_filesystem:
            return
        oldest = time.time() - _KEEP_PROCESSED_SECONDS
        for file in (self._folder / "processed").glob("*"):
            try:
                if file.lstat().st_mtime < oldest:
                    file.unlink()
            except OSError:  # another replica has deleted it, or it is not a file
                continue

    def close(self) -> None:
        """Close the connection to the broker."""
        with self._lock:
            if self._celery is not None:
                self._celery.close()
                self._celery = None

    @property
    def _is_filesystem(self) -> bool:
        return self._url.startswith("filesystem")

    def _connect(self) -> Any:
        """Return the Celery app, which is made at its first use and never waits long for the broker."""
        if self._celery is None:
            from celery import Celery

            app = Celery("dkd-backend", set_as_current=False)
            app.conf.update(celery_settings(self._url, Path(self._folder)))
            app.conf.update(broker_connection_timeout=_CONNECT_SECONDS, broker_connection_retry=False)
            if self._is_filesystem:
                for name in ("messages", "processed", "control"):
                    (self._folder / name).mkdir(parents=True, exist_ok=True)
            else:
                app.conf.broker_transport_options = {
                    "socket_connect_timeout": _CONNECT_SECONDS,
                    "socket_timeout": _CONNECT_SECONDS,
                    # A single attempt: the reconciler repeats it.
                    "max_retries": 1,
                    "interval_start": 0,
                    "interval_step": 0,
                }
            self._celery = app
        return self._celery
