"""The Celery side of the worker: a nudge comes in, ``run_next`` claims and supervises."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

from celery import Celery, signals

from common.celery_config import NUDGE_QUEUE, NUDGE_TASK, celery_settings
from worker.identity import Identity
from worker.service import WorkerService
from worker.settings import WorkerSettings

_KEPT_SECONDS = 600.0
_PRUNE_SECONDS = 60.0


def create_app(settings: WorkerSettings, service: WorkerService) -> Celery:
    """The Celery application of one worker, its task and its signals connected to the service."""
    app = Celery("dkd", set_as_current=False)
    app.conf.update(celery_settings(settings.broker_url, settings.broker))
    # Without end: the work comes over HTTP too, and a worker that gave the broker up would give its trainings up.
    app.conf.broker_connection_max_retries = None
    app.conf.worker_consumer = "worker.nudge_filter:Consumer"

    def run_next() -> None:
        service.supervisor.run_next()

    def start(**_: Any) -> None:
        service.start()

    def leave(**_: Any) -> None:
        # In a thread: this is called inside a signal handler, which may have interrupted a holder of our locks.
        threading.Thread(target=service.leave, name="leave", daemon=True).start()

    app.task(name=NUDGE_TASK)(run_next)
    # worker_init comes before the broker is reached, worker_ready after it: without a broker that would be never.
    signals.worker_init.connect(start, weak=False)
    signals.worker_shutting_down.connect(leave, weak=False)
    return app


def arguments(slots: int, identity: Identity) -> list[str]:
    """Of ``celery worker``: as many threads as slots, and none of the talk between workers."""
    return [
        "--quiet",
        "worker",
        "--pool=threads",
        f"--concurrency={slots}",
        f"--queues={NUDGE_QUEUE}",
        f"--hostname=dkd-{identity.id[:8]}@%h",
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
        "--loglevel=WARNING",
    ]


def make_broker_folders(settings: WorkerSettings) -> None:
    """What the filesystem transport expects to find; nothing for another broker. Raises OSError."""
    if settings.broker_url.startswith("filesystem"):
        for name in ("messages", "processed", "control"):
            (settings.broker / name).mkdir(parents=True, exist_ok=True)


class Pruner:
    """Deletes messages that were taken long ago: the filesystem transport keeps every one of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._last = 0.0

    def __call__(self) -> None:
        now = time.time()
        if now - self._last < _PRUNE_SECONDS:
            return
        self._last = now
        with contextlib.suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                # Another worker on the same folder may be faster.
                with contextlib.suppress(OSError):
                    if now - path.lstat().st_mtime > _KEPT_SECONDS:
                        path.unlink()
