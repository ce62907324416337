"""How the machine is: what every heartbeat carries besides the runs."""

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
class Condition:
    """How the GPUs are, and what keeps the worker from working well, in sentences.

    Attributes:
        disk_full: that of the artifact store, so that a run begun now would come to nothing.
    """

    gpus: list[GpuUse] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    disk_full: bool = False


def disk_problem(folder: Path) -> str:
    """A sentence where the disk of a folder is full, or nearly; else empty."""
    while not folder.exists():
        folder = folder.parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"takes no runs: the disk of {folder} cannot be used: {error.strerror}"
    return f"takes no runs: the disk of {folder} is full, {free / 2**20:.0f} MiB are left" if free < _LOW_BYTES else ""


class Observer:
    """Looks in a thread of its own: a disk or a driver that does not answer must not hold a heartbeat up."""

    def __init__(self, look: Callable[[], Condition], seconds: float = _SECONDS) -> None:
        self._look = look
        self._seconds = seconds
        self._stopped = threading.Event()
        self._latest = Condition()
        self._thread = threading.Thread(target=self._run, name="condition", daemon=True)

    @property
    def latest(self) -> Condition:
        return self._latest

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def _run(self) -> None:
        before: list[str] = []
        while not self._stopped.is_set():
            try:
                self._latest = self._look()
            except Exception:
                # What a driver or a disk does is not ours to foresee, and the heartbeat must go on saying something.
                log.exception("the machine's condition could not be read")
                self._latest = Condition(
                    problems=["the machine's condition could not be read; the worker's log says why"]
                )
            for problem in self._latest.problems:
                if problem not in before:
                    log.warning("problem", reason=problem)
            before = self._latest.problems
            self._stopped.wait(self._seconds)
