"""The worker's Celery application: a nudge starts ``run_next``, which claims and trains runs."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

from celery import Celery, signals

from common.celery_config import NUDGE_QUEUE, NUDGE_TASK, celery_settings
from worker.identity import WorkerIdentity
from worker.service import WorkerService
from worker.settings import WorkerSettings

_KEEP_SECONDS = 600.0
_PRUNE_SECONDS = 60.0


def create_app(settings: WorkerSettings, service: WorkerService) -> Celery:
    """Create the Celery application of one worker, with its task and signals connected to the service."""
    app = Celery("dkd", set_as_current=False)
    app.conf.update(celery_settings(settings.broker_url, settings.broker))
    # No limit on retries: runs are also claimed over HTTP, and a worker that stopped retrying would exit and so end
    # its trainings.
    app.conf.broker_connection_max_retries = None
    app.conf.worker_consumer = "worker.nudge_filter:Consumer"

    def run_next() -> None:
        service.supervisor.run_next()

    def start(**_: Any) -> None:
        service.start()

    def begin_shutdown(**_: Any) -> None:
        # In a thread, since Celery calls this function in a signal handler. The handler may have interrupted a thread
        # that holds one of the service's locks.
        threading.Thread(target=service.begin_shutdown, name="shutdown", daemon=True).start()

    app.task(name=NUDGE_TASK)(run_next)
    # worker_init is sent before the connection to the broker. worker_ready is sent after it, and thus never if the
    # broker is unreachable.
    signals.worker_init.connect(start, weak=False)
    signals.worker_shutting_down.connect(begin_shutdown, weak=False)
    return app


def celery_arguments(slots: int, identity: WorkerIdentity) -> list[str]:
    """Return the arguments of ``celery worker``: one thread per slot, and no messages between workers."""
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
    """Create the folders of the filesystem broker. Other brokers need no folders.

    Raises:
        OSError: A folder cannot be created.
    """
    if settings.broker_url.startswith("filesystem"):
        for name in ("messages", "processed", "control"):
            (settings.broker / name).mkdir(parents=True, exist_ok=True)


class MessagePruner:
    """Deletes messages that were delivered long ago, since the filesystem broker keeps every delivered message.

    Args:
        folder: The broker's folder of delivered messages.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pruned_at = 0.0

    def __call__(self) -> None:
        now = time.time()
        if now - self._pruned_at < _PRUNE_SECONDS:
            return
        self._pruned_at = now
        with contextlib.suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                # Another worker that uses the same folder may have deleted the file first.
                with contextlib.suppress(OSError):
                    if now - path.lstat().st_mtime > _KEEP_SECONDS:
                        path.unlink()
