"""Samples the machine every ten seconds in a thread of its own, beside a training that never waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from core.catalog.machine import CPU_ENERGY, GPU_ENERGY
from core.machine.counters import MachineCounters, ProcessorEnergy
from core.machine.gpus import Gpus, GpuState, gauges, joules_between

SAMPLE_SECONDS = 10.0
_STOP_SECONDS = 2.0
"""How long the end of a training waits for a reading that hangs, as in a driver that has lost a GPU."""
_JOULES_PER_WH = 3600.0

WarnFn = Callable[[str], object]


@dataclass
class _Mean:
    """A mean weighted by time."""

    total: float = 0.0
    seconds: float = 0.0

    def add(self, value: float, seconds: float) -> None:
        self.total += value * seconds
        self.seconds += seconds


@dataclass
class _Reading:
    """Everything that is read at one moment."""

    time: float
    totals: dict[str, float] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    gpus: list[GpuState] = field(default_factory=list)
    cpu_joules: float | None = None


class MachineSampler:
    """Means of what the machine did, from one call of ``take`` to the next.

    If a reading fails, sampling ends, and the values since then are absent.

    Args:
        counters: Reads processes, memory, disks and network; None if nothing can.
        gpus: Reads the GPUs of the run; None if it has none or they cannot be read.
        processor_energy: Reads the energy of the processors; None if it may not be read.
        period: Seconds between two readings.
        now: Returns the time in seconds.

    Attributes:
        energy: Energy in Wh by metric. A run that is resumed continues with what it used before.
        problem: Why sampling ended; empty if it did not.
    """

    def __init__(
        self,
        counters: MachineCounters | None,
        gpus: Gpus | None = None,
        processor_energy: ProcessorEnergy | None = None,
        *,
        period: float = SAMPLE_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counters, self._gpus, self._processor_energy = counters, gpus, processor_energy
        self._period, self._now = period, now
        self.energy: dict[str, float] = {}
        self.problem = ""
        self._means: dict[str, _Mean] = {}
        self._last: _Reading | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def measures(self) -> bool:
        """Whether there is anything that can be read."""
        return not (self._counters is None and self._gpus is None and self._processor_energy is None)

    def start(self) -> None:
        """Take the first reading, and begin to sample."""
        self.sample()
        if self.problem:
            return
        # A daemon: a hanging driver must not keep a process that has ended its training.
        self._thread = threading.Thread(target=self._run, name="machine-sampler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End sampling with a last reading, which makes the values and the energy complete."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(_STOP_SECONDS)
            if self._thread.is_alive():
                self.problem = self.problem or "a reading of the machine did not return"
                return
        self.sample()

    def end(self) -> None:
        """End sampling without a last reading, and without waiting for one that is going on."""
        self._stopping.set()

    def take(self) -> dict[str, float]:
        """Return the means since the last call and the energy so far, by metric; empty if nothing was read since."""
        if not self._lock.acquire(blocking=False):  # a reading is going on; the next call has its values
            return {}
        try:
            values = {name: mean.total / mean.seconds for name, mean in self._means.items() if mean.seconds > 0}
            self._means = {}
            return values | self.energy if values else {}
        finally:
            self._lock.release()

    def sample(self) -> None:
        """Take one reading, and add what happened since the previous one."""
        if self.problem:
            return
        try:
            with self._lock:
                reading = self._read()
                if self._last is not None:
                    self._add(self._last, reading)
                self._last = reading
        except Exception as error:  # noqa: BLE001 (a driver or a library may raise anything, and the training goes on)
            self.problem = f"{type(error).__name__}: {error}"

    def _run(self) -> None:
        while not self._stopping.wait(self._period):
            self.sample()

    def _read(self) -> _Reading:
        reading = _Reading(self._now())
        if self._counters is not None:
            reading.totals, reading.gauges = self._counters.totals(), self._counters.gauges()
        if self._gpus is not None:
            reading.gpus = self._gpus.read()
            reading.gauges |= gauges(reading.gpus)
        if self._processor_energy is not None:
            reading.cpu_joules = self._processor_energy.joules()
        return reading

    def _add(self, before: _Reading, after: _Reading) -> None:
        seconds = after.time - before.time
        if seconds <= 0:
            return
        for name, value in after.gauges.items():
            self._mean(name).add(value, seconds)
        for name, total in after.totals.items():
            if name in before.totals:
                # A process that ended takes its counts with it.
                self._mean(name).add(max(0.0, total - before.totals[name]) / seconds, seconds)
        if after.cpu_joules is not None:
            self._mean("machine/cpu_power").add(after.cpu_joules / seconds, seconds)
            self._use(CPU_ENERGY, after.cpu_joules)
        if after.gpus and (joules := joules_between(before.gpus, after.gpus, seconds)) is not None:
            self._use(GPU_ENERGY, joules)

    def _mean(self, name: str) -> _Mean:
        return self._means.setdefault(name, _Mean())

    def _use(self, name: str, joules: float) -> None:
        self.energy[name] = self.energy.get(name, 0.0) + joules / _JOULES_PER_WH


def open_sampler(gpus: Sequence[str], warn: WarnFn, *, ranks: int = 1) -> MachineSampler:
    """Return a sampler of what can be read here.

    Args:
        gpus: UUIDs of the GPUs of the run; empty on a CPU.
        warn: Receives a sentence about what cannot be measured.
        ranks: Number of processes of the run.
    """
    energy = ProcessorEnergy()
    return MachineSampler(
        _open_counters(warn, ranks), _open_gpus(gpus, warn) if gpus else None, energy if energy.readable else None
    )


def _open_counters(warn: WarnFn, ranks: int) -> MachineCounters | None:
    try:
        import psutil

        return MachineCounters(psutil, with_siblings=ranks > 1)
    except Exception as error:  # noqa: BLE001 (whatever it is, the training goes on without)
        warn(f"processors, memory, disks and network are not measured: {error}")
        return None


def _open_gpus(names: Sequence[str], warn: WarnFn) -> Gpus | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        return Gpus(pynvml, names)
    except Exception as error:  # noqa: BLE001 (no library, no driver, no such GPU, or no permission in a container)
        warn(f"the use and the energy of the GPUs are not measured: {error}")
        return None
