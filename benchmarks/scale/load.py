"""How large the simulated lab is, and what its requests have measured."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from benchmarks.platform.raw_http import ErrorStatus

T = TypeVar("T")


@dataclass(frozen=True)
class Load:
    """The size of the simulated lab.

    Attributes:
        workers: Simulated workers.
        slots: Slots of all workers together.
        queued: Runs that are queued before the start.
        owners: People who have submitted them.
        projects: Projects that they are in; the last of several has a quota of no slots, so that all its runs wait.
        dashboards: Open pages: of five, three show the overview, one a run that trains, and one the list of runs.
        seconds: Duration.
        run_seconds: Duration of a run.
        report_seconds: Time between two reports of a training.
        heartbeat_seconds: Time between two heartbeats of a worker.
        refresh_seconds: Time between two requests of an open page.
        replicas: Backends.
    """

    workers: int = 200
    slots: int = 2_000
    queued: int = 100_000
    owners: int = 50
    projects: int = 5
    dashboards: int = 500
    seconds: float = 3_600.0
    run_seconds: float = 120.0
    report_seconds: float = 10.0
    heartbeat_seconds: float = 10.0
    refresh_seconds: float = 2.0
    replicas: int = 2


REDUCED = {"workers": 10, "slots": 100, "dashboards": 20, "seconds": 200.0, "run_seconds": 40.0}
"""What a reduced load changes; it takes about five minutes."""


class Measurements:
    """Milliseconds and errors of the requests of many threads, by kind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.times: dict[str, list[float]] = defaultdict(list)
        self.errors: Counter[str] = Counter()

    def timed(self, kind: str, request: Callable[[], T]) -> T | None:
        """Send a request and note its time; None if it failed, which is noted as an error."""
        began = time.perf_counter()
        try:
            result = request()
        except (OSError, ErrorStatus) as error:
            with self._lock:
                self.errors[f"{kind}: {str(error)[:160]}"] += 1
            return None
        with self._lock:
            self.times[kind].append(1000 * (time.perf_counter() - began))
        return result
