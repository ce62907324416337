"""What a training reports of its machine, in the same events as its own metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch

from core.catalog.machine import CPU_ENERGY, GPU_ENERGY
from core.machine.sampler import MachineSampler, open_sampler
from core.train.job import Job

POINTS_UNTHINNED = 2000
"""Number of points after which they become rarer: from then on, two are apart by this share of the time so far. A
training of a week has about 9,000 points of each metric instead of 60,000."""

Opener = Callable[..., MachineSampler]


class MachineReport:
    """Samples the machine while a training trains, and gives the values to its reports.

    Args:
        job: The training. Its first rank measures for all of them.
        device: Where this rank trains.
        open_sampler: Returns the sampler.
    """

    def __init__(self, job: Job, device: torch.device, open_sampler: Opener = open_sampler) -> None:
        self._job, self._device, self._open = job, device, open_sampler
        self._sampler: MachineSampler | None = None
        self._energy: dict[str, float] = {}
        self._reported_at = 0.0

    def restore(self, values: Mapping[str, float], elapsed: float) -> None:
        """Continue from the last values of an earlier attempt.

        Args:
            values: The last value of every metric.
            elapsed: Seconds of training of earlier attempts.
        """
        self._energy = {name: values[name] for name in (GPU_ENERGY, CPU_ENERGY) if name in values}
        self._reported_at = elapsed

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """A block in which the machine is measured; nothing that fails here reaches the training."""
        if self._job.ranks.is_main:
            self._start()
        try:
            yield
        finally:
            if self._sampler is not None:
                self._sampler.end()
                self._sampler = None

    def values(self, elapsed: float, *, last: bool = False) -> dict[str, float]:
        """Return what was measured since the last values, by metric; empty if nothing was, or it is not yet time.

        Args:
            elapsed: Seconds of training, including earlier attempts.
            last: Whether the training is over; the values then include the time since the last reading.
        """
        sampler = self._sampler
        if sampler is None:
            return {}
        if last:
            sampler.stop()
        elif elapsed - self._reported_at < elapsed / POINTS_UNTHINNED:
            return {}
        values = sampler.take()
        if values:
            self._reported_at = elapsed
        if sampler.problem:
            self._job.warn(f"the machine is no longer measured: {sampler.problem}")
            self._sampler = None
        return values

    def _start(self) -> None:
        ranks = self._job.ranks.size
        try:
            sampler = self._open(_gpu_names(self._device, ranks), self._job.warn, ranks=ranks)
            sampler.energy = dict(self._energy)
            if sampler.measures:
                sampler.start()
                self._sampler = sampler
        except Exception as error:  # noqa: BLE001 (as an old torch or no further threads; the training goes on)
            self._job.warn(f"the machine is not measured: {type(error).__name__}: {error}")


def _gpu_names(device: torch.device, ranks: int) -> list[str]:
    """Return the UUIDs of a run's GPUs. CUDA and the driver number them in different orders."""
    if device.type != "cuda":
        return []
    return [f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in range(ranks)]
