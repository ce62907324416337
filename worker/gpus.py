"""GPU readings from the driver (NVML), and detection of other people's processes. NVML is optional."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import psutil
import structlog

from common.mps import SERVER
from core.protocol.public import GpuUse
from worker.process_tree import WORKER_MARK

log = structlog.get_logger()

_NAME_LENGTH = 15


@dataclass(frozen=True)
class GpuReading:
    """One GPU as the driver describes it. A value that the driver does not report is None.

    Attributes:
        name: Name of the model.
        use: Share of about the last second in which the GPU computed, %.
        memory_used: Bytes.
        memory_total: Bytes.
        pids: Ids of the processes that use the GPU for computation.
    """

    name: str = ""
    use: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    pids: frozenset[int] | None = None


class GpuMonitor(Protocol):
    """Reads the worker's GPUs."""

    def read(self) -> list[GpuReading]:
        """Return one reading per GPU of the worker, in its order. Never raises."""


class NvmlMonitor:
    """Reads GPUs through NVIDIA's management library.

    Args:
        library: The initialised module ``pynvml``.
        gpus: The GPUs as CUDA_VISIBLE_DEVICES names them.
    """

    def __init__(self, library: Any, gpus: Sequence[str]) -> None:
        self._library = library
        self._handles = [self._handle(name) for name in gpus]

    def read(self) -> list[GpuReading]:
        """Return one reading per GPU; a reading without values for a GPU that the driver does not have."""
        return [GpuReading() if handle is None else self._read(handle) for handle in self._handles]

    def _handle(self, name: str) -> Any:
        by_index = name.isdecimal()
        look_up = self._library.nvmlDeviceGetHandleByIndex if by_index else self._library.nvmlDeviceGetHandleByUUID
        try:
            return look_up(int(name) if by_index else name)
        except self._library.NVMLError as error:
            log.warning("the driver has no such GPU", gpu=name, reason=str(error))
            return None

    def _read(self, handle: Any) -> GpuReading:
        memory = self._query(self._library.nvmlDeviceGetMemoryInfo, handle)
        use = self._query(self._library.nvmlDeviceGetUtilizationRates, handle)
        pids = self._pids(handle)
        name = self._query(self._library.nvmlDeviceGetName, handle) or ""
        return GpuReading(
            name=name.decode() if isinstance(name, bytes) else name,
            use=None if use is None else float(use.gpu),
            memory_used=None if memory is None else int(memory.used),
            memory_total=None if memory is None else int(memory.total),
            pids=pids,
        )

    def _pids(self, handle: Any) -> frozenset[int] | None:
        """Return the ids of the processes that compute, MPS clients among them; None if the driver does not tell."""
        processes = self._query(self._library.nvmlDeviceGetComputeRunningProcesses, handle)
        if processes is None:
            return None
        clients = None
        if hasattr(self._library, "nvmlDeviceGetMPSComputeRunningProcesses"):  # not in drivers before 2021
            clients = self._query(self._library.nvmlDeviceGetMPSComputeRunningProcesses, handle)
        pids = frozenset(int(process.pid) for process in (*processes, *(clients or ())))
        # A server keeps its memory while it has no clients, and computes nothing itself.
        return frozenset(pid for pid in pids if not _is_mps_server(pid))

    def _query(self, function: Callable[[Any], Any], handle: Any) -> Any:
        try:
            return function(handle)
        except self._library.NVMLError:  # not supported on this GPU, or the GPU has been lost
            return None


def _is_mps_server(pid: int) -> bool:
    try:
        # Linux cuts the name of a process.
        return psutil.Process(pid).name()[:_NAME_LENGTH] == SERVER[:_NAME_LENGTH]
    except (psutil.Error, OSError):
        return False


def find_gpu_monitor(gpus: Sequence[str]) -> GpuMonitor | None:
    """Return a monitor of the GPUs; None if there are no GPUs, no library, or no response from the driver."""
    if not gpus:
        return None
    try:
        import pynvml
    except ImportError:
        log.warning("nvidia-ml-py is not installed: other people's processes on the GPUs are not detected")
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.warning("the GPU driver does not respond: other people's processes are not detected", reason=str(error))
        return None
    return NvmlMonitor(pynvml, gpus)


class GpuGuard:
    """Distinguishes this worker's processes on the GPUs from other people's.

    In a container, a driver may report process ids of another namespace. Therefore, if a run of this worker uses a GPU
    but none of the reported processes belongs to the worker, the owners are unknown and no process counts as foreign.

    Args:
        monitor: Reads the GPUs.
        worker_id: Id with which the worker's processes are marked.
    """

    def __init__(self, monitor: GpuMonitor, worker_id: str) -> None:
        self._monitor = monitor
        self._worker_id = worker_id

    def in_foreign_use(self, occupied: Collection[int]) -> frozenset[int]:
        """Return the GPUs, counted from 0, that a process of somebody else uses.

        Args:
            occupied: GPUs that a run of this worker uses.
        """
        readings = enumerate(self._monitor.read())
        return frozenset(
            gpu for gpu, reading in readings if self._foreign_count(reading, gpu in occupied, leftovers=True)
        )

    def usage(self, occupied: Collection[int]) -> list[GpuUse]:
        """Return the usage of each GPU as the heartbeat reports it.

        Args:
            occupied: GPUs that a run of this worker uses.
        """
        return [
            GpuUse(
                index=gpu,
                name=reading.name[:200],
                use=reading.use,
                memory_used=reading.memory_used,
                memory_total=reading.memory_total,
                foreign=self._foreign_count(reading, gpu in occupied),
            )
            for gpu, reading in enumerate(self._monitor.read())
        ]

    def processes(self, gpus: Collection[int]) -> frozenset[int]:
        """Return the ids of all processes that use these GPUs."""
        readings = self._monitor.read()
        return frozenset().union(*(readings[gpu].pids or () for gpu in gpus))

    def unfreed_processes(
        self, gpus: Collection[int], pids_before: Collection[int], training_pids: Collection[int], *, exclusive: bool
    ) -> set[int]:
        """Return the processes of an ended training that still occupy memory of these GPUs.

        Args:
            gpus: GPUs of the training.
            pids_before: Ids of the processes that used these GPUs when the training began.
            training_pids: Ids of the training's processes.
            exclusive: Whether no other run of this worker can use these GPUs.
        """
        # The driver lists a process until its memory is free, even after the process has ended. An id that belongs to a
        # living process on this machine is somebody else's. An id without such a process is the training's process in
        # another namespace.
        return {
            pid
            for pid in self.processes(gpus).difference(pids_before)
            if pid in training_pids or (exclusive and not psutil.pid_exists(pid))
        }

    def _foreign_count(self, reading: GpuReading, occupied: bool, *, leftovers: bool = False) -> int:
        """Count foreign processes.

        With ``leftovers``, processes of this worker on a GPU that none of its runs uses count as foreign too.
        """
        pids = reading.pids or frozenset()
        if not occupied and leftovers:
            return len(pids)
        own_count = sum(map(self._is_own, pids))
        return len(pids) - own_count if own_count or not occupied else 0

    def _is_own(self, pid: int) -> bool:
        try:
            return psutil.Process(pid).environ().get(WORKER_MARK) == self._worker_id
        except (psutil.Error, OSError):
            return False
