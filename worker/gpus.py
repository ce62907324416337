"""What the driver tells of the GPUs (NVML), and whose processes compute on them. Optional: without it nothing waits."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import psutil
import structlog

from core.protocol.public import GpuUse
from worker.process_tree import WORKER_MARK

log = structlog.get_logger()


@dataclass(frozen=True)
class Reading:
    """One GPU as the driver describes it; None for what it does not tell.

    Attributes:
        use: share of the last second or so in which it computed, %.
        memory_used: bytes.
        memory_total: bytes.
        processes: ids of those that compute on it.
    """

    name: str = ""
    use: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    processes: frozenset[int] | None = None


class Monitor(Protocol):
    def read(self) -> list[Reading]:
        """One reading for each GPU of the worker, in its order. Never raises."""


class Nvml:
    """NVIDIA's management library.

    Args:
        library: the module ``pynvml``, initialised.
        gpus: as CUDA_VISIBLE_DEVICES names them.
    """

    def __init__(self, library: Any, gpus: Sequence[str]) -> None:
        self._library = library
        self._handles = [self._handle(name) for name in gpus]

    def read(self) -> list[Reading]:
        return [Reading() if handle is None else self._read(handle) for handle in self._handles]

    def _handle(self, name: str) -> Any:
        by_index = name.isdecimal()
        look = self._library.nvmlDeviceGetHandleByIndex if by_index else self._library.nvmlDeviceGetHandleByUUID
        try:
            return look(int(name) if by_index else name)
        except self._library.NVMLError as error:
            log.warning("the driver does not know a GPU", gpu=name, reason=str(error))
            return None

    def _read(self, handle: Any) -> Reading:
        memory = self._ask(self._library.nvmlDeviceGetMemoryInfo, handle)
        use = self._ask(self._library.nvmlDeviceGetUtilizationRates, handle)
        processes = self._ask(self._library.nvmlDeviceGetComputeRunningProcesses, handle)
        name = self._ask(self._library.nvmlDeviceGetName, handle) or ""
        return Reading(
            name=name.decode() if isinstance(name, bytes) else name,
            use=None if use is None else float(use.gpu),
            memory_used=None if memory is None else int(memory.used),
            memory_total=None if memory is None else int(memory.total),
            processes=None if processes is None else frozenset(int(process.pid) for process in processes),
        )

    def _ask(self, question: Callable[[Any], Any], handle: Any) -> Any:
        try:
            return question(handle)
        except self._library.NVMLError:  # not supported on this GPU, or it has been lost
            return None


def find_monitor(gpus: Sequence[str]) -> Monitor | None:
    """The driver's, where there are GPUs, the library, and a driver that answers."""
    if not gpus:
        return None
    try:
        import pynvml
    except ImportError:
        log.warning("nvidia-ml-py is not installed: other people's processes on the GPUs are not seen")
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.warning("the GPUs' driver does not answer: other people's processes are not seen", reason=str(error))
        return None
    return Nvml(pynvml, gpus)


class Guard:
    """Tells this worker's processes on the GPUs from other people's.

    A driver may name processes by numbers of another namespace, as in a container. Where a run of ours is on a GPU and
    none of the numbers is one of ours, nobody can say whose they are, and nothing is made of them.

    Args:
        worker_id: by which the processes of this worker are marked.
    """

    def __init__(self, monitor: Monitor, worker_id: str) -> None:
        self._monitor = monitor
        self._worker_id = worker_id

    def busy(self, occupied: Collection[int]) -> frozenset[int]:
        """GPUs that somebody else computes on, counted from 0.

        Args:
            occupied: those that a run of ours is on.
        """
        readings = enumerate(self._monitor.read())
        return frozenset(gpu for gpu, reading in readings if self._foreign(reading, gpu in occupied, leftovers=True))

    def report(self, occupied: Collection[int]) -> list[GpuUse]:
        """Each GPU for the backend."""
        return [
            GpuUse(
                index=gpu,
                name=reading.name[:200],
                use=reading.use,
                memory_used=reading.memory_used,
                memory_total=reading.memory_total,
                foreign=self._foreign(reading, gpu in occupied),
            )
            for gpu, reading in enumerate(self._monitor.read())
        ]

    def processes(self, gpus: Collection[int]) -> frozenset[int]:
        """Ids of what computes on these GPUs, anybody's."""
        readings = self._monitor.read()
        return frozenset().union(*(readings[gpu].processes or () for gpu in gpus))

    def left_behind(
        self, gpus: Collection[int], before: Collection[int], known: Collection[int], *, alone: bool
    ) -> set[int]:
        """What still has memory of these GPUs after a training of ours on them has ended.

        Args:
            before: the processes there when it began.
            known: processes that it had.
            alone: no other run of ours may be on these GPUs.
        """
        # The driver lists a process until its memory is free, also when it has gone. One that lives is somebody's; a
        # number that is nobody's here is the training's in another namespace.
        return {
            process
            for process in self.processes(gpus).difference(before)
            if process in known or (alone and not psutil.pid_exists(process))
        }

    def _foreign(self, reading: Reading, occupied: bool, *, leftovers: bool = False) -> int:
        """How many processes are somebody else's; with ``leftovers`` also ours, where no run of ours is any more."""
        processes = reading.processes or frozenset()
        if not occupied and leftovers:
            return len(processes)
        ours = sum(map(self._is_ours, processes))
        return len(processes) - ours if ours or not occupied else 0

    def _is_ours(self, process: int) -> bool:
        try:
            return psutil.Process(process).environ().get(WORKER_MARK) == self._worker_id
        except (psutil.Error, OSError):
            return False
