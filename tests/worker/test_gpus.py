"""GPUs and other people's processes on them, with a fake driver."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from core.events import Started
from core.protocol.public import GpuUse
from tests.waiting import until
from tests.worker.conftest import WORKER_ID, Rig, processes_of
from worker.gpus import GpuGuard, GpuReading, NvmlMonitor, find_gpu_monitor
from worker.training_monitor import TimeLimits

NOBODY = 2**22 + 5  # above Linux's highest process id


class Driver:
    """Two GPUs with the processes that the test sets."""

    def __init__(self) -> None:
        self.processes: dict[int, set[int]] = {0: set(), 1: set()}

    def read(self) -> list[GpuReading]:
        return [GpuReading(name="H200", pids=frozenset(pids)) for pids in self.processes.values()]


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_training_is_bound_to_its_gpus_and_gets_their_number(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(slots=3, gpus=3)
    rig.behaviour = "train"
    rig.backend.add("small")
    rig.backend.add("large", gpus=2)
    rig.start()
    environments = {}
    for name in ("small", "large"):
        rig.ready(name)
        event = until(partial(rig.backend.records.get, (name, 1)))[0].event
        assert isinstance(event, Started)
        environments[name] = (event.environment["CUDA_VISIBLE_DEVICES"], event.environment["ranks"])
    assert environments == {"small": ("0", "1"), "large": ("1,2", "2")}
    assert [request.free_gpus for request in rig.backend.requests[:2]] == [3, 2]


def test_run_over_several_gpus_waits_until_they_are_free(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(slots=2, gpus=2)
    rig.behaviour = "train"
    rig.backend.add("small")
    rig.start()
    rig.ready("small")
    rig.backend.add("large", gpus=2)
    until(lambda: len(rig.backend.requests) > 3, "another claim")
    assert {request.free_gpus for request in rig.backend.requests[1:]} == {1}
    rig.backend.orders["small"] = "cancel"
    rig.ready("large")


def test_gpu_in_foreign_use_is_not_used(make_rig: Callable[..., Rig], driver: Driver) -> None:
    rig = make_rig(slots=2, gpus=2, monitor=driver)
    driver.processes = {0: {os.getpid()}, 1: {NOBODY}}
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    count = len(rig.backend.heartbeats)
    until(lambda: len(rig.backend.heartbeats) > count + 5, "more heartbeats")
    assert rig.backend.requests == []
    driver.processes[1].clear()
    rig.ready()
    assert (rig.backend.requests[0].free_gpus, rig.backend.requests[0].usable_gpus) == (1, 1)
    assert rig.supervisor.occupied_gpus() == {1}


def test_own_processes_do_not_count_as_foreign(driver: Driver) -> None:
    mine = psutil.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env={"DKD_RUN_OWNER": WORKER_ID})
    try:
        guard = GpuGuard(driver, WORKER_ID)
        driver.processes = {0: {mine.pid}, 1: {mine.pid, os.getpid()}}
        assert guard.in_foreign_use(occupied={0, 1}) == {1}
        assert [gpu.foreign for gpu in guard.usage({0, 1})] == [0, 1]
        assert guard.in_foreign_use(occupied=()) == {0, 1}, "leftovers of an own run count as foreign"
        driver.processes[1] = {NOBODY}
        assert guard.in_foreign_use(occupied={0, 1}) == frozenset(), "ids of another namespace have no known owner"
    finally:
        mine.kill()
        mine.wait()


def test_run_is_cancelled_only_after_its_gpu_memory_is_free(make_rig: Callable[..., Rig], driver: Driver) -> None:
    rig = make_rig(slots=1, gpus=1, monitor=driver, limits=TimeLimits(grace=20.0, margin=1.0, gpu=60.0))
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    driver.processes[0] = {NOBODY}  # an id of another namespace
    rig.backend.orders["run-1"] = "cancel"
    until(lambda: not processes_of(rig.folder()), "the processes are gone")
    count = len(rig.backend.heartbeats)
    until(lambda: len(rig.backend.heartbeats) > count + 5, "more heartbeats")
    assert rig.backend.outcomes == []
    driver.processes[0].clear()
    outcome = until(rig.backend.outcome, "it is cancelled")
    assert (outcome.outcome, outcome.reason) == ("cancelled", "cancelled")


def test_gpu_memory_that_is_not_freed_is_in_the_reason(make_rig: Callable[..., Rig], driver: Driver) -> None:
    rig = make_rig(slots=1, gpus=1, monitor=driver, limits=TimeLimits(grace=20.0, margin=1.0, gpu=0.3))
    rig.behaviour = "train"
    rig.backend.add()
    rig.start()
    rig.ready()
    driver.processes[0] = {NOBODY}
    rig.backend.orders["run-1"] = "cancel"
    outcome = until(rig.backend.outcome, "it is cancelled")
    assert outcome.reason == f"cancelled; the GPU memory of processes [{NOBODY}] was not freed"


class NvmlError(Exception):
    pass


class Library:
    """A fake pynvml: GPU 0 reports everything, GPU-b only its memory, and the third does not exist."""

    NVMLError = NvmlError

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if index > 0:
            raise NvmlError("invalid argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        return {"GPU-b": 1}[uuid]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=5, total=10)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=self._supported(handle, 93))

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> Any:
        return [SimpleNamespace(pid=self._supported(handle, NOBODY))]

    def nvmlDeviceGetMPSComputeRunningProcesses(self, handle: int) -> Any:
        return [SimpleNamespace(pid=self._supported(handle, NOBODY))]

    def nvmlDeviceGetName(self, handle: int) -> Any:
        return self._supported(handle, b"NVIDIA H200")

    def _supported(self, handle: int, value: Any) -> Any:
        if handle:
            raise NvmlError("not supported")
        return value


def test_values_that_the_driver_does_not_report_are_none() -> None:
    guard = GpuGuard(NvmlMonitor(Library(), ("0", "GPU-b", "7")), WORKER_ID)
    assert guard.usage(()) == [
        GpuUse(index=0, name="NVIDIA H200", use=93.0, memory_used=5, memory_total=10, foreign=1),
        GpuUse(index=1, memory_used=5, memory_total=10),
        GpuUse(index=2),
    ]
    assert guard.in_foreign_use(()) == {0}


def test_no_monitor_without_a_driver() -> None:
    assert find_gpu_monitor(()) is None
    if not os.path.exists("/dev/nvidiactl"):
        assert find_gpu_monitor(("0",)) is None
