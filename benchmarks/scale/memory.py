"""Resident memory of processes over time, and how fast it grows."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Sequence

import psutil

MIB = 2**20


class MemoryRecorder:
    """Samples the memory of processes until it is stopped.

    Args:
        pids: The processes.
        seconds: Time between two samples.
    """

    def __init__(self, pids: Sequence[int], seconds: float) -> None:
        self._processes = [psutil.Process(pid) for pid in pids]
        self._seconds = seconds
        self._began = time.monotonic()
        self.samples: list[list[tuple[float, float]]] = [[] for _ in pids]

    def record(self, stop: threading.Event) -> None:
        """Append a sample of each process (seconds since the start, MiB) until ``stop`` is set."""
        while True:
            for process, samples in zip(self._processes, self.samples, strict=True):
                samples.append((time.monotonic() - self._began, process.memory_info().rss / MIB))
            if stop.wait(self._seconds):
                return


def growth(samples: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the second half of the samples in MiB an hour; caches fill in the first half."""
    half = [sample for sample in samples if sample[0] >= samples[-1][0] / 2]
    if len(half) < 2:
        return 0.0
    slope: float = statistics.linear_regression([time for time, _ in half], [size for _, size in half]).slope
    return 3600 * slope
