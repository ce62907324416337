"""How fast an epoch is trained, and how much of its time is spent waiting for images."""

from __future__ import annotations

import time
from collections.abc import Iterator

from core.tasks.task import Batch


class ThroughputMeter:
    """Counts images and waiting time in this process, from its creation on.

    If a run is resumed in the middle of an epoch, the part that an earlier attempt trained is not counted.
    """

    def __init__(self) -> None:
        self._created_at = time.perf_counter()
        self._waiting_seconds = 0.0
        self._images = 0

    def measure(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the same batches; count their images, and time the waiting for each.

        Args:
            batches: The batches of an epoch.

        Yields:
            Each batch of ``batches``.
        """
        while True:
            before = time.perf_counter()
            batch = next(batches, None)
            self._waiting_seconds += time.perf_counter() - before
            if batch is None:
                return
            self._images += batch.total
            yield batch

    def metrics(self) -> dict[str, float]:
        """Return the metrics by name; empty if no batch was seen. Read them after the device has finished."""
        seconds = time.perf_counter() - self._created_at
        if not self._images or seconds <= 0:
            return {}
        return {
            "speed/images_per_second": self._images / seconds,
            "speed/input_stall": 100 * self._waiting_seconds / seconds,
        }
