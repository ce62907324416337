"""Readings of the GPUs of a run from NVIDIA's management library (NVML). A value that a GPU does not report is absent.

A part of a GPU (MIG) reports its memory. Its use and its power are not known apart from those of the whole GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GpuState:
    """One GPU at a moment.

    Attributes:
        use: Share of about the last second in which it computed, %.
        memory: Bytes in use, by all programs.
        power: Watts.
        temperature: Degrees Celsius.
        energy: Joules since the driver was loaded.
    """

    use: float | None = None
    memory: float | None = None
    power: float | None = None
    temperature: float | None = None
    energy: float | None = None


class Gpus:
    """The GPUs of a run.

    Args:
        library: The initialised module ``pynvml``.
        names: UUIDs or numbers of the GPUs, as CUDA_VISIBLE_DEVICES has them.

    Raises:
        Exception: The driver has no such GPU, or does not allow a reading; an ``NVMLError`` of the library.
    """

    def __init__(self, library: Any, names: Sequence[str]) -> None:
        self._library = library
        self._handles = [self._handle(name) for name in names]
        self._is_divided = [self._has_parts(handle) for handle in self._handles]

    def read(self) -> list[GpuState]:
        """Return the state of each GPU."""
        pairs = zip(self._handles, self._is_divided, strict=True)
        # A run has a part of a divided GPU, also where its UUID is that of the whole one.
        return [self._memory_alone(handle) if divided else self._state(handle) for handle, divided in pairs]

    def _handle(self, name: str) -> Any:
        library = self._library
        if name.isdecimal():
            return library.nvmlDeviceGetHandleByIndex(int(name))
        try:
            return library.nvmlDeviceGetHandleByUUID(name)
        except library.NVMLError:
            if not name.startswith("GPU-"):
                raise
            # torch gives a part of a GPU the same form of a UUID as a whole one.
            return library.nvmlDeviceGetHandleByUUID(f"MIG-{name.removeprefix('GPU-')}")

    def _has_parts(self, handle: Any) -> bool:
        """Return whether a GPU is divided into parts."""
        modes = self._query(self._library.nvmlDeviceGetMigMode, handle)
        return bool(modes and modes[0])

    def _memory_alone(self, handle: Any) -> GpuState:
        memory = self._query(self._library.nvmlDeviceGetMemoryInfo, handle)
        return GpuState(memory=None if memory is None else float(memory.used))

    def _state(self, handle: Any) -> GpuState:
        library = self._library
        use = self._query(library.nvmlDeviceGetUtilizationRates, handle)
        memory = self._query(library.nvmlDeviceGetMemoryInfo, handle)
        milliwatts = self._query(library.nvmlDeviceGetPowerUsage, handle)
        temperature = self._query(library.nvmlDeviceGetTemperature, handle, library.NVML_TEMPERATURE_GPU)
        millijoules = self._query(library.nvmlDeviceGetTotalEnergyConsumption, handle)
        return GpuState(
            use=None if use is None else float(use.gpu),
            memory=None if memory is None else float(memory.used),
            power=None if milliwatts is None else milliwatts / 1000,
            temperature=None if temperature is None else float(temperature),
            energy=None if millijoules is None else millijoules / 1000,
        )

    def _query(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except self._library.NVMLError:  # not supported on this GPU, not allowed, or the GPU has been lost
            return None


def gauges(states: Sequence[GpuState]) -> dict[str, float]:
    """Return the metrics of several GPUs together: mean use, sums of memory and power, the highest temperature.

    A metric that one of the GPUs does not report is absent.
    """
    values: dict[str, float] = {}
    if uses := _all(states, lambda state: state.use):
        values["machine/gpu_use"] = sum(uses) / len(uses)
    if memories := _all(states, lambda state: state.memory):
        values["machine/gpu_memory"] = sum(memories) / 1e9
    if powers := _all(states, lambda state: state.power):
        values["machine/gpu_power"] = sum(powers)
    if temperatures := _all(states, lambda state: state.temperature):
        values["machine/gpu_temperature"] = max(temperatures)
    return values


def joules_between(before: Sequence[GpuState], after: Sequence[GpuState], seconds: float) -> float | None:
    """Return the energy of several GPUs between two readings; None if one of them does not report any.

    A GPU without a counter of its energy (before Volta) is measured by the mean of its power at both ends.
    """
    total = 0.0
    for first, last in zip(before, after, strict=True):
        if first.energy is not None and last.energy is not None and last.energy >= first.energy:
            total += last.energy - first.energy
        elif first.power is not None and last.power is not None:
            total += (first.power + last.power) / 2 * seconds
        else:
            return None
    return total if before else None


def _all(states: Sequence[GpuState], read: Callable[[GpuState], float | None]) -> list[float]:
    values = [value for state in states if (value := read(state)) is not None]
    return values if len(values) == len(states) else []
