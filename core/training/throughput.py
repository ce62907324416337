"""How fast an epoch goes, and how much of its time is spent on waiting for images."""

from __future__ import annotations

import time
from collections.abc import Iterator

from core.data import Batch


class ThroughputMeter:
    """Counts from its making, in this process: what an earlier attempt did of the epoch is in neither sum."""

    def __init__(self) -> None:
        self._since = time.perf_counter()
        self._waited = 0.0
        self._images = 0

    def of(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches, their images counted and the waiting for them timed."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - asked
            if batch is None:
                return
            self._images += batch.total
            yield batch

    def values(self) -> dict[str, float]:
        """Metrics by name, to be asked for when the device is done; none where no batch was seen."""
        seconds = time.perf_counter() - self._since
        if not self._images or seconds <= 0:
            return {}
        return {"speed/images_per_second": self._images / seconds, "speed/input_stall": 100 * self._waited / seconds}
