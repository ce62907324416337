"""Tells workers that there is something to claim. Carries no work; may be lost, doubled or late without harm."""

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
_AWAY_SECONDS = 10.0  # a broker that did not answer is not asked again for so long
_KEEP_SECONDS = 60.0  # a nudge that was not taken by then has been repeated
_KEEP_PROCESSED_SECONDS = 3600.0


class Nudger:
    """Sends nudges over Celery. A broker that is away is written to the log once and otherwise ignored."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.broker_url
        self._folder = settings.broker_folder
        self._lock = threading.Lock()
        self._celery: Any = None
        self._away_until = 0.0  # by the monotonic clock; 0 while the broker answers

    def send(self, count: int) -> None:
        """Send ``count`` nudges. Never raises: the reconciler and the heartbeats repeat what is lost."""
        if count < 1:
            return
        with self._lock:
            if time.monotonic() < self._away_until:
                return  # whoever waited at the lock while the broker did not answer need not find out again
            try:
                celery = self._connected()
                for _ in range(count - self._backlog()):
                    celery.send_task(
                        NUDGE_TASK, queue=NUDGE_QUEUE, retry=False, ignore_result=True, expires=_KEEP_SECONDS
                    )
            except Exception as error:  # noqa: BLE001 (every transport raises its own)
                if not self._away_until:
                    _log.warning("broker unavailable; workers will find runs by their heartbeats", error=str(error))
                self._away_until = time.monotonic() + _AWAY_SECONDS
                return
            if self._away_until:
                _log.info("broker is back")
            self._away_until = 0.0

    def _backlog(self) -> int:
        """Messages that nobody has taken yet; more of them would not be heard sooner."""
        # Only what could be a nudge: other files, which nobody takes, must not keep nudges from being sent.
        found = (self._folder / "messages").glob(f"*.{NUDGE_QUEUE}.msg") if self._is_filesystem else ()
        return sum(1 for path in found if path.is_file() and not path.is_symlink())

    def prune(self) -> None:
        """Delete messages that the filesystem transport has kept after they were taken."""
        if not self._is_filesystem:
            return
        before = time.time() - _KEEP_PROCESSED_SECONDS
        for file in (self._folder / "processed").glob("*"):
            try:
                if file.lstat().st_mtime < before:
                    file.unlink()
            except OSError:  # another replica was faster, or it is no file
                continue

    def close(self) -> None:
        with self._lock:
            if self._celery is not None:
                self._celery.close()
                self._celery = None

    @property
    def _is_filesystem(self) -> bool:
        return self._url.startswith("filesystem")

    def _connected(self) -> Any:
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
                    # One try: the reconciler is the retry.
                    "max_retries": 1,
                    "interval_start": 0,
                    "interval_step": 0,
                }
            self._celery = app
        return self._celery
