"""Celery's configuration: the same for the backend, which sends nudges, and for the workers, which receive them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

NUDGE_TASK = "dkd.run_next"
NUDGE_QUEUE = "dkd"


def celery_settings(broker_url: str, folder: Path) -> dict[str, Any]:
    """Return Celery's configuration for a broker.

    A nudge contains no data and has no result. It is acknowledged before its task runs, since a late acknowledgement
    would run a long task twice; the reconciler repeats a lost nudge. Nudges are never prefetched.

    Args:
        broker_url: ``filesystem://`` or ``redis://…``.
        folder: Folder of the messages of the filesystem transport; other transports do not use it.
    """
    settings: dict[str, Any] = {
        "broker_url": broker_url,
        "broker_connection_retry_on_startup": True,
        "task_default_queue": NUDGE_QUEUE,
        "task_acks_late": False,
        "task_ignore_result": True,
        "worker_prefetch_multiplier": 1,
        "worker_hijack_root_logger": False,
        # Otherwise any client of the broker could shut workers down.
        "worker_enable_remote_control": False,
    }
    if broker_url.startswith("filesystem"):
        settings["broker_transport"] = "common.kombu_filesystem:Transport"
        settings["broker_transport_options"] = {
            "data_folder_in": str(folder / "messages"),
            "data_folder_out": str(folder / "messages"),
            "processed_folder": str(folder / "processed"),
            "control_folder": str(folder / "control"),
            # Moved, not deleted: a move on one disk is atomic, so two workers never take one message.
            "store_processed": True,
        }
    return settings
