"""What a training measures of the machine that it runs on. The metrics describe the machine and not a method."""

from __future__ import annotations

from core.catalog.metric import Metric

GPU_ENERGY, CPU_ENERGY = "machine/gpu_energy", "machine/cpu_energy"

_GPUS, _POWER, _PROCESSORS, _TRAFFIC = "GPUs", "Power and temperature", "Processors and memory", "Disk and network"
_ENERGY = "Energy"

MACHINE = (
    Metric("machine/gpu_use", "Time in which the GPUs computed", "%", panel=_GPUS, from_zero=True),
    Metric("machine/gpu_memory", "Memory in use on the GPUs", "GB", panel=_GPUS),
    Metric("machine/gpu_power", "Power of the GPUs", "W", panel=_POWER, from_zero=True),
    Metric("machine/cpu_power", "Power of the machine's processors", "W", panel=_POWER, from_zero=True),
    Metric("machine/gpu_temperature", "Temperature of the warmest GPU", "°C", panel=_POWER),
    Metric("machine/cpu_use", "Processor time of the run", "%", panel=_PROCESSORS, from_zero=True),
    Metric("machine/memory_use", "Memory in use on the machine", "%", panel=_PROCESSORS, from_zero=True),
    Metric("machine/disk_wait", "Machine's processors idle and waiting for a disk", "%", panel=_PROCESSORS),
    Metric("machine/memory", "Memory of the run", "GB", panel=_PROCESSORS),
    Metric("machine/disk_read", "Run's reading from disks", "MB/s", panel=_TRAFFIC, from_zero=True),
    Metric("machine/disk_written", "Run's writing to disks", "MB/s", panel=_TRAFFIC),
    Metric("machine/received", "Machine's receiving from the network", "MB/s", panel=_TRAFFIC),
    Metric("machine/sent", "Machine's sending to the network", "MB/s", panel=_TRAFFIC),
    Metric(GPU_ENERGY, "Energy of the GPUs since the run began", "Wh", panel=_ENERGY, from_zero=True),
    Metric(CPU_ENERGY, "Energy of the machine's processors since the run began", "Wh", panel=_ENERGY, from_zero=True),
)
"""No direction is better, because the values depend on the machine and on other programs on it."""
