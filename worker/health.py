"""The machine's health: GPU usage, disk space and problems, sent with every heartbeat."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from core.protocol.public import GpuUse

log = structlog.get_logger()

_LOW_BYTES = 200 * 2**20
_SECONDS = 5.0


@dataclass(frozen=True)
class Health:
    """Result of one health check.

    Attributes:
        gpus: Usage of each GPU.
        problems: Sentences for a person about the worker's problems.
        disk_full: Whether the artifact store's disk is full. If it is, a run that starts now would fail.
    """

    gpus: list[GpuUse] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    disk_full: bool = False


def disk_space_problem(folder: Path) -> str:
    """Return a sentence if the disk of ``folder`` is full or nearly full, else an empty string."""
    while not folder.exists():
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"does not claim runs: the disk of {folder} cannot be used: {error.strerror}"
    if free >= _LOW_BYTES:
        return ""
    return f"does not claim runs: the disk of {folder} is full, {free / 2**20:.0f} MiB are left"


class HealthMonitor:
    """Runs a health check periodically in its own thread, so that a disk or driver that hangs delays no heartbeat.

    Args:
        check: The health check.
        seconds: Interval between checks.
    """

    def __init__(self, check: Callable[[], Health], seconds: float = _SECONDS) -> None:
        self._check = check
        self._seconds = seconds
        self._stopped = threading.Event()
        self._latest = Health()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)

    @property
    def latest(self) -> Health:
        """Result of the latest completed check."""
        return self._latest

    def start(self) -> None:
        """Start the checks."""
        self._thread.start()

    def stop(self) -> None:
        """Stop: no further check starts."""
        self._stopped.set()

    def _run(self) -> None:
        logged: list[str] = []
        while not self._stopped.is_set():
            try:
                self._latest = self._check()
            except Exception:
                # Drivers and disks can raise any error. The thread must continue, since the heartbeat needs a result.
                log.exception("health check failed")
                self._latest = Health(problems=["the health check failed; see the worker's log"])
            for problem in self._latest.problems:
                if problem not in logged:
                    log.warning("problem", reason=problem)
            logged = self._latest.problems
            self._stopped.wait(self._seconds)
