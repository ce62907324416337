"""Readings of processors, memory, disks and network, of a run's processes and of their machine.

Everything is optional: without psutil, or where the system does not allow a reading, the values are absent.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.processors import cpu_quota

_POWERCAP = Path("/sys/class/powercap")
_LOOPBACK = frozenset({"lo", "lo0"})


def usable_processors() -> float:
    """Return the number of processors that this process may use, with a fraction if a quota has one."""
    usable = float(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1)
    quota = cpu_quota()
    return usable if quota is None else min(usable, quota)


class MachineCounters:
    """Reads the counters of a run's processes and of their machine.

    Args:
        psutil: The module, or one with the same functions.
        with_siblings: Whether the other children of this process's parent belong to the run too, as several ranks do.
    """

    def __init__(self, psutil: Any, *, with_siblings: bool = False) -> None:
        self._psutil = psutil
        own = psutil.Process()
        parent = own.parent() if with_siblings else None
        # Found once, because this reads the list of all processes of the machine. A training starts no others.
        self._processes = [own, *(child for child in (parent.children() if parent else ()) if child != own)]
        self._processors = usable_processors()

    def gauges(self) -> dict[str, float]:
        """Return what is measured at a moment, by metric."""
        values = {"machine/memory_use": float(self._psutil.virtual_memory().percent)}
        resident = [self._of(process, lambda item: item.memory_info().rss) for process in self._processes]
        known = [value for value in resident if value is not None]
        if known:
            values["machine/memory"] = sum(known) / 1e9
        return values

    def totals(self) -> dict[str, float]:
        """Return what only grows, in units per second of the metric, by metric.

        The difference of two readings, divided by the seconds between them, is the metric.
        """
        totals: dict[str, float] = {}
        times = [self._of(process, lambda item: item.cpu_times()) for process in self._processes]
        known = [item for item in times if item is not None]
        if known:
            totals["machine/cpu_use"] = 100 * sum(item.user + item.system for item in known) / self._processors
        transfers = [self._of(process, lambda item: item.io_counters()) for process in self._processes]
        moved = [item for item in transfers if item is not None]
        if moved:
            totals["machine/disk_read"] = sum(item.read_bytes for item in moved) / 1e6
            totals["machine/disk_written"] = sum(item.write_bytes for item in moved) / 1e6
        machine = self._psutil.cpu_times()
        if hasattr(machine, "iowait"):
            totals["machine/disk_wait"] = 100 * machine.iowait / (self._psutil.cpu_count() or 1)
        cards = [card for name, card in self._psutil.net_io_counters(pernic=True).items() if name not in _LOOPBACK]
        if cards:
            totals["machine/received"] = sum(card.bytes_recv for card in cards) / 1e6
            totals["machine/sent"] = sum(card.bytes_sent for card in cards) / 1e6
        return totals

    def _of(self, process: Any, read: Any) -> Any:
        """Return a reading; None if the process has ended, or the system does not have or does not allow it."""
        try:
            return read(process)
        except (self._psutil.Error, OSError, AttributeError):
            return None


class ProcessorEnergy:
    """The energy counters of the machine's processors (RAPL). Usually only root may read them.

    Args:
        folder: Where Linux has them.
    """

    def __init__(self, folder: Path = _POWERCAP) -> None:
        # "intel-rapl:0" is a processor with all its parts, "intel-rapl:0:1" one of the parts. AMD's have the same name.
        self._counters = [item for item in sorted(folder.glob("*-rapl:*")) if item.name.count(":") == 1]
        self._last = self._read()

    @property
    def readable(self) -> bool:
        """Whether all processors can be read."""
        return bool(self._last)

    def joules(self) -> float | None:
        """Return the energy since the last call, or since the object was made; None if it cannot be read."""
        before, self._last = self._last, self._read()
        if not before or before.keys() != self._last.keys():
            return None
        used = 0
        for item, now in self._last.items():
            used += now - before[item] if now >= before[item] else now + self._range(item) - before[item]
        return used / 1e6

    def _read(self) -> Mapping[Path, int]:
        try:
            return {item: int((item / "energy_uj").read_text(encoding="ascii")) for item in self._counters}
        except (OSError, ValueError):
            return {}

    @staticmethod
    def _range(item: Path) -> int:
        """Return the value at which a counter begins from 0 again."""
        return int((item / "max_energy_range_uj").read_text(encoding="ascii"))
